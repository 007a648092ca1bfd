//! What a port is to the data plane: frames in bursts, and nothing of where they come from.
//!
//! Two implementations: [`crate::dpdk`] (real ports) and [`crate::memory`] (tests and laptops without DPDK).
//! The worker is generic over these traits, so nothing here costs a virtual call.

use arrayvec::ArrayVec;

/// Frames in one receive or transmit burst, at most. 32 is what DPDK's vector drivers are tuned for.
pub const BURST: usize = 32;

/// Up to [`BURST`] frames, on the stack.
pub type Burst<F> = ArrayVec<F, BURST>;

/// Index of a port: its place in the configuration's `ports`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u8);

impl PortId {
    /// As an index into per-port arrays.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What the NIC says of the IPv4 header checksum of a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumStatus {
    /// The NIC did not look: software must.
    Unknown,
    /// Verified by the NIC.
    Good,
    /// Found wrong by the NIC.
    Bad,
}

/// One Ethernet frame, owned; dropping it gives its buffers back.
///
/// A frame lies in one buffer or in several, one after the other (jumbo frames on ports whose buffers are smaller). What
/// changes a frame does nothing and says false where the frame is not [exclusive](Frame::is_exclusive) or has not what is
/// asked for.
pub trait Frame: Send + 'static {
    /// The frame's bytes from the destination MAC on (of the first segment, where there are several).
    fn bytes(&self) -> &[u8];

    /// The same, writable; empty where somebody else has the buffer too.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Bytes of the whole frame, all segments.
    fn length(&self) -> usize;

    /// Nobody else has any of its buffers: they may be written.
    fn is_exclusive(&self) -> bool;

    /// The frame lies in one buffer that nobody else has, so that [`Frame::bytes`] is all of it and may be written.
    fn is_contiguous(&self) -> bool;

    /// Opens room for `bytes` at the front, with anything in it. False where the headroom is shorter.
    fn prepend(&mut self, bytes: usize) -> bool;

    /// Takes `bytes` off the front, across segments. False where the frame is shorter.
    fn remove_front(&mut self, bytes: usize) -> bool;

    /// Adds `bytes` zeros at the end. False where the last segment has no room for them.
    fn append(&mut self, bytes: usize) -> bool;

    /// Cuts the end off, across segments, so that `length` is left. False where the frame is shorter.
    fn truncate(&mut self, length: usize) -> bool;

    /// Copies what the frame has from `offset` on, across segments, as far as `into` reaches; returns how many bytes.
    fn copy_to(&self, offset: usize, into: &mut [u8]) -> usize;

    /// The control information (PCP, DEI, VID) of a VLAN tag that the port took out of the frame. It is not put back when
    /// the frame is sent.
    fn vlan_tci(&self) -> Option<u16>;

    /// Forgets that tag.
    fn clear_vlan_tci(&mut self);

    /// The NIC's verdict on the IPv4 header checksum.
    fn ip_checksum(&self) -> ChecksumStatus;

    /// Starts loading the first bytes into the cache.
    fn prefetch(&self);

    /// Gives back the buffers of a whole burst, which a driver does cheaper than one by one.
    fn free_burst(burst: &mut Burst<Self>)
    where
        Self: Sized,
    {
        burst.clear();
    }
}

/// One RX and one TX queue of a port, owned by one worker.
pub trait QueuePair: Send + 'static {
    /// The frames of this port.
    type Frame: Frame;

    /// Appends what has arrived to `burst`, at most as much as still fits.
    fn receive(&mut self, burst: &mut Burst<Self::Frame>);

    /// Hands frames from the front of `burst` to the port and returns how many it took; the rest stays in `burst`.
    fn transmit(&mut self, burst: &mut Burst<Self::Frame>) -> usize;

    /// The port cannot be given this frame as it is: where `transmit` stopped before it, it had no way to change that.
    fn is_unfit(&self, _frame: &Self::Frame) -> bool {
        false
    }

    /// An empty frame of one segment with headroom, or nothing where the pool has none left.
    fn allocate(&mut self) -> Option<Self::Frame>;
}

/// Where the control thread gets buffers for the frames that it makes.
pub trait FramePool: Send + Sync + 'static {
    /// The frames made.
    type Frame: Frame;

    /// A frame with these bytes, in as many buffers as it takes, or nothing where the pool has not as many.
    fn frame(&self, bytes: &[u8]) -> Option<Self::Frame>;

    /// How many of its buffers are in use.
    fn usage(&self) -> PoolUsage;
}

/// Buffers of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// All.
    pub buffers: u32,
    /// Those that are not in the pool: received and not yet sent, held, waiting in rings and queues. Exact while nobody takes
    /// or gives any.
    pub in_use: u32,
}

/// A port's own counters and link, as its driver reports them; all since the port started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStatistics {
    /// Frames received by the driver.
    pub rx_packets: u64,
    /// Bytes received by the driver.
    pub rx_bytes: u64,
    /// Frames sent by the driver.
    pub tx_packets: u64,
    /// Bytes sent by the driver.
    pub tx_bytes: u64,
    /// Frames lost because no RX descriptor was free.
    pub rx_missed: u64,
    /// Frames received with an error.
    pub rx_errors: u64,
    /// Frames that could not be received for want of an mbuf.
    pub rx_no_mbuf: u64,
    /// Frames that the driver failed to send.
    pub tx_errors: u64,
    /// The link is up.
    pub link_is_up: bool,
}

/// What a port takes off the director's hands when it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCapabilities {
    /// Fills in IPv4 header checksums.
    pub tx_ipv4_checksum: bool,
    /// Fills in UDP checksums.
    pub tx_udp_checksum: bool,
    /// Fills in TCP checksums.
    pub tx_tcp_checksum: bool,
    /// Sends a frame of several segments as it is; else its queue pair copies it into one.
    pub segments: bool,
}

/// A started port as the control thread sees it. Never used by a worker.
pub trait PortStatus: Send {
    /// The port's own MAC address, the source of every frame it sends.
    fn mac(&self) -> [u8; 6];
    /// Largest IP packet that the port carries, in bytes.
    fn mtu(&self) -> u16;
    /// What it can do when it sends.
    fn capabilities(&self) -> PortCapabilities;
    /// The link is up.
    fn link_is_up(&self) -> bool;
    /// The driver's counters.
    fn statistics(&self) -> PortStatistics;
}
