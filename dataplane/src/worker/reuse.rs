//! The packet's connection is known, but the packet may not simply follow it: its time is over, its real server is gone, or
//! the packet opens a connection on a tuple that has one.

use super::{Packet, Round, close, lookup, open, oversize};
use crate::clock::Ticks;
use crate::connection::table::ConnectionId;
use crate::connection::{Connection, ConnectionFlags};
use crate::port::{Frame, QueuePair};
use crate::snapshot::Snapshot;
use crate::verdict::{DropReason, Verdict};

/// Ends the connection and treats the packet as one of none, or lets the packet follow it all the same. As `ip_vs_in` does,
/// but for a SYN, which is never dropped because of a connection that is over.
#[cold]
#[inline(never)]
pub(super) fn judge<Q: QueuePair>(
    packet: &Packet,
    index: usize,
    id: ConnectionId,
    round: &mut Round<Q>,
) -> Result<u32, Verdict> {
    let parts = &mut *round.parts;
    let snapshot = parts.mailbox.current();
    let connection = parts.connections.connection(id);
    let template = parts.connections.template(&connection);
    let frame = round.frames.get(index).map_or(&[][..], |frame| frame.bytes());
    let way = oversize::way_to(snapshot, connection.destination, packet, frame);
    if is_over(packet, &connection, template, way.err(), snapshot, round.now) {
        return open_anew(packet, index, id, round);
    }
    let timeouts = lookup::timeouts_of(snapshot, way?.timeouts);
    let after = connection.state.after(packet.event);
    parts.connections.update(id, after, round.now.after(timeouts.ticks(after)));
    if connection.state != after {
        let moved = Connection { state: after, link: template, ..connection };
        lookup::moved(connection.state, &moved, &parts.counts, &parts.templates);
    }
    oversize::forward(snapshot, connection.destination, packet)
}

/// The packet finds its connection over: by time, because its real server was removed, or because the packet opens another one.
/// `obstacle`: why it cannot go to its real server.
pub(super) fn is_over(
    packet: &Packet,
    connection: &Connection,
    template: Option<u32>,
    obstacle: Option<Verdict>,
    snapshot: &Snapshot,
    now: Ticks,
) -> bool {
    let is_removed = obstacle == Some(Verdict::Drop(DropReason::RealServerRemoved));
    connection.expires.is_past(now)
        || is_removed && (packet.event.opens() || snapshot.options.expire_nodest_conn)
        || packet.event.is_first() && is_left_by_new_ones(connection, template, snapshot)
}

/// Ends the connection, and judges the packet as one of none.
pub(super) fn open_anew<Q: QueuePair>(
    packet: &Packet,
    index: usize,
    id: ConnectionId,
    round: &mut Round<Q>,
) -> Result<u32, Verdict> {
    let gone = round.parts.connections.remove(id);
    // Its real server still has it while the packet is scheduled (`ip_vs_conn_expire_now` only sets its timer).
    let opened = open::open(packet, index, round);
    let parts = &*round.parts;
    close(&gone, round.now, &parts.counts, &parts.templates, &parts.counters);
    opened
}

/// A SYN or INIT on this connection's tuple ends it; one that is no RST is scheduled anew. A connection that is over is
/// left only where no template keeps the client (IPVS: "controlled"), one to a quiesced real server always.
fn is_left_by_new_ones(connection: &Connection, template: Option<u32>, snapshot: &Snapshot) -> bool {
    let destination = snapshot.destinations.get(connection.destination as usize);
    let is_quiesced = destination.is_some_and(|destination| destination.is_quiesced);
    let options = &snapshot.options;
    // With NAT the director sees how a connection ends: FIN_WAIT is not the last that it sees of it.
    let mode = match connection.flags.contains(ConnectionFlags::TRANSLATED) {
        true => options.conn_reuse_mode.min(1),
        false => options.conn_reuse_mode,
    };
    options.expire_nodest_conn && is_quiesced || template.is_none() && connection.state.is_over(mode)
}
