//! `dr-ctl connections`: every worker's connections, read while it goes on forwarding.
//!
//! Rows are taken as the workers put them, a bounded number at a time, so that the control thread goes on with ARP
//! meanwhile. One listing at a time; others wait for it. One that was given up is drained before the next.

use std::sync::Arc;
use std::time::Duration;

use ctl::config::Protocol;
use ctl::protocol::{ConnectionView, Connections, ConnectionsQuery, ErrorCode, ErrorReply};
use dataplane::listing::{ConnectionRow, Listing};
use dataplane::snapshot;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::control::{SharedControl, TICK};
use crate::services::wire_protocol;
use crate::slots::Owner;

/// Rows in one answer, whatever the client asks for: 100,000 are 20 MB of JSON.
pub const ROWS_MAX: u32 = 100_000;
/// Rows taken from one worker before other tasks have their turn.
const ROWS_AT_ONCE: usize = 2048;
/// A worker that has not put a row in this time, nor finished, is stuck.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a listing may wait for others.
const QUEUE_PATIENCE: Duration = Duration::from_secs(30);

/// The workers' listings, and which of them are under way.
#[derive(Debug)]
pub struct Lister {
    listings: Vec<Arc<Listing>>,
    /// Number of the listing asked for, by worker, until all its rows are taken.
    outstanding: Vec<Option<u64>>,
}

impl Lister {
    /// Nothing under way.
    pub fn new(listings: Vec<Arc<Listing>>) -> Self {
        let outstanding = vec![None; listings.len()];
        Lister { listings, outstanding }
    }

    fn request(&mut self) {
        for (listing, outstanding) in self.listings.iter().zip(&mut self.outstanding) {
            *outstanding = Some(listing.request());
        }
    }

    /// Shows all rows of what is under way to `see`.
    async fn drain(&mut self, mut see: impl FnMut(u32, &ConnectionRow)) -> Result<(), ErrorReply> {
        let mut progress = Instant::now();
        while self.outstanding.iter().any(Option::is_some) {
            let mut taken = 0;
            for (worker, listing) in self.listings.iter().enumerate() {
                let Some(number) = self.outstanding[worker] else { continue };
                // Asked before the queue is emptied: a row put later would be missed.
                let is_complete = listing.is_complete(number);
                let rows = std::iter::from_fn(|| listing.next_row()).take(ROWS_AT_ONCE);
                let count = rows.inspect(|row| see(worker as u32, row)).count();
                taken += count;
                if is_complete && count < ROWS_AT_ONCE {
                    self.outstanding[worker] = None;
                    taken += 1;
                }
            }
            if taken > 0 {
                progress = Instant::now();
                tokio::task::yield_now().await;
            } else if progress.elapsed() < PATIENCE {
                tokio::time::sleep(TICK).await;
            } else {
                return Err(self.describe_silence());
            }
        }
        Ok(())
    }

    fn describe_silence(&self) -> ErrorReply {
        let silent = self.outstanding.iter().enumerate().filter(|(_, outstanding)| outstanding.is_some());
        let silent: Vec<_> = silent.map(|(worker, _)| worker.to_string()).collect();
        let message =
            format!("no connections from worker {} within {} s", silent.join(", "), PATIENCE.as_secs());
        ErrorReply::new(ErrorCode::Timeout, message)
            .with_help("try again; a worker that makes no progress needs a restart of dr-director")
    }
}

/// Lists connections.
pub async fn list(
    control: &SharedControl,
    lister: &Mutex<Lister>,
    query: &ConnectionsQuery,
) -> Result<Connections, ErrorReply> {
    let busy = || ErrorReply::new(ErrorCode::Timeout, "another listing of connections is still under way");
    let mut lister = tokio::time::timeout(QUEUE_PATIENCE, lister.lock()).await.map_err(|_| busy())?;
    lister.drain(|_, _| {}).await?;
    lister.request();
    let limit = query.limit.min(ROWS_MAX) as usize;
    let mut answer = Connections { matching: 0, connections: Vec::new() };
    let collect = |worker: u32, row: &ConnectionRow| {
        let Some(view) = view(control, worker, row).filter(|view| matches(query, view)) else { return };
        answer.matching += 1;
        if answer.connections.len() < limit {
            answer.connections.push(view);
        }
    };
    lister.drain(collect).await?;
    Ok(answer)
}

/// A row in words; none where its slot led nowhere ever.
fn view(control: &SharedControl, worker: u32, row: &ConnectionRow) -> Option<ConnectionView> {
    let Owner { address, .. } = control.borrow().services.slots().owner(row.destination)?;
    Some(ConnectionView {
        protocol: if row.protocol == snapshot::Protocol::UDP { Protocol::Udp } else { Protocol::Tcp },
        state: row.state.to_owned(),
        expires_seconds: row.expires_seconds,
        client_address: row.client_address,
        client_port: row.client_port,
        virtual_address: row.virtual_address,
        virtual_port: row.virtual_port,
        real_server: address,
        worker,
    })
}

fn matches(query: &ConnectionsQuery, view: &ConnectionView) -> bool {
    let is_of_service = |service: ctl::config::ServiceId| {
        (service.address, service.port) == (view.virtual_address, view.virtual_port)
            && wire_protocol(service.protocol) == wire_protocol(view.protocol)
    };
    query.service.is_none_or(is_of_service)
        && query.client.is_none_or(|client| client == view.client_address)
        && query.real_server.is_none_or(|real_server| real_server == view.real_server)
}
