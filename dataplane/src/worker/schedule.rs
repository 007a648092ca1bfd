//! The packet belongs to no connection: may it open one, and to which real server?

use super::{Packet, WorkerParts, lookup, parse};
use crate::clock::Ticks;
use crate::connection::{Connection, ConnectionFlags, ConnectionState};
use crate::packet::tcp::{RST, SYN};
use crate::port::{PortId, QueuePair};
use crate::snapshot::Protocol;
use crate::verdict::DropReason;

/// Opens a connection as IPVS does (`ip_vs_schedule`): a service must want the packet, TCP must open with a SYN that is
/// no RST, and the scheduler must find a real server.
#[inline(never)]
pub(super) fn open<Q: QueuePair>(
    packet: &Packet,
    port: PortId,
    now: Ticks,
    parts: &mut WorkerParts<Q>,
) -> Result<u32, DropReason> {
    let snapshot = parts.mailbox.current();
    let key = packet.key.service();
    let Some(service) = snapshot.services.get(&key) else {
        return Err(parse::not_a_service(key.address, port, snapshot));
    };
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    let first_state = match key.protocol {
        Protocol::UDP => ConnectionState::Udp,
        _ if packet.flags & (SYN | RST) == SYN => ConnectionState::None.after(packet.flags),
        _ => return Err(DropReason::NoConnection),
    };
    if parts.connections.is_full() {
        return Err(DropReason::ConnectionTableFull);
    }
    let chosen = service.scheduler.schedule(&service.real_servers).ok_or(DropReason::NoRealServer)?;
    let real_server = service.real_servers.get(chosen).ok_or(DropReason::NoRealServer)?;
    lookup::way_to(snapshot, real_server.id, packet.ip_length)?;
    let connection = Connection {
        key: packet.key,
        state: first_state,
        flags: ConnectionFlags::NONE,
        expires: now.after(first_state.timeout_ticks()),
        destination: real_server.id,
        template: None,
    };
    parts.connections.insert(connection, packet.hash).map_err(|_| DropReason::ConnectionTableFull)?;
    real_server.counts.open();
    if first_state.is_active() {
        real_server.counts.activate();
    }
    parts.counters.connections_opened.add(1);
    if let Some(counters) = parts.counters.destinations.get(real_server.id as usize) {
        counters.connections.add(1);
    }
    Ok(real_server.id)
}
