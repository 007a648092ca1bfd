//! What is measured, seen from outside: a process that forwards, and its counters.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// How far received and forwarded may differ: a burst is in the worker's hands, and between the readings of the two a
/// microsecond or two may pass, in which some more come in.
const IN_HAND_MAX: u64 = 8 * 32;
/// A reading that took longer, or between whose two counters more packets passed, is taken again.
const SLOW_READING: Duration = Duration::from_millis(2);
const READINGS_MAX: u32 = 20;

/// A running forwarder.
pub(crate) trait Forwarder {
    /// Process id.
    fn id(&self) -> u32;

    /// Waits until every flow is being forwarded.
    fn settle(&mut self, flows: u32) -> Result<()>;

    /// Its counters now.
    fn read(&mut self) -> Result<Reading>;

    /// Ends it.
    fn stop(self: Box<Self>) -> Result<()>;
}

/// Counters since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Packets taken from the port.
    pub(crate) received: u64,
    /// Packets given to the port.
    pub(crate) forwarded: u64,
    /// Everything else that became of a packet, by name; where it is not zero.
    pub(crate) lost: Vec<(String, u64)>,
    /// Of a forwarder that has connections: those it holds, and those it ever opened.
    pub(crate) connections: Option<(u64, u64)>,
}

/// Counters, and when.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// The middle of the time that reading took.
    pub(crate) at: Instant,
    /// Half of that time: how far off `at` may be.
    pub(crate) doubt: Duration,
    /// What was read.
    pub(crate) counters: Counters,
}

impl Reading {
    /// Reads, again where it took long or packets passed between: this program and the one that it asks may have to
    /// wait for their CPU.
    pub(crate) fn take(mut read: impl FnMut() -> Result<Counters>) -> Result<Reading> {
        let mut reading = Reading::once(&mut read)?;
        for _ in 1..READINGS_MAX {
            if reading.doubt <= SLOW_READING && reading.counters.is_balanced() {
                break;
            }
            reading = Reading::once(&mut read)?;
        }
        Ok(reading)
    }

    fn once(read: &mut impl FnMut() -> Result<Counters>) -> Result<Reading> {
        let before = Instant::now();
        let counters = read()?;
        let doubt = before.elapsed() / 2;
        Ok(Reading { at: before + doubt, doubt, counters })
    }
}

impl Counters {
    /// Every packet was forwarded, but for those in the worker's hands.
    pub(crate) fn is_balanced(&self) -> bool {
        self.lost.is_empty() && self.received.abs_diff(self.forwarded) <= IN_HAND_MAX
    }

    /// Every packet was forwarded, and every flow is one connection, opened once.
    pub(crate) fn check(&self, flows: u32) -> Result<()> {
        ensure!(
            self.is_balanced(),
            "the counters do not balance: received {}, forwarded {}, and otherwise {:?}",
            self.received,
            self.forwarded,
            self.lost
        );
        let flows = u64::from(flows);
        ensure!(
            self.connections.is_none_or(|connections| connections == (flows, flows)),
            "{flows} flows, but (held, ever opened) connections are {:?}",
            self.connections
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters() -> Counters {
        Counters { received: 1032, forwarded: 1000, lost: Vec::new(), connections: Some((7, 7)) }
    }

    #[test]
    fn counters_balance_with_a_burst_in_hand_and_not_with_more() {
        counters().check(7).unwrap();
        for received in [1300, 700] {
            assert!(Counters { received, ..counters() }.check(7).is_err(), "{received}");
        }
    }

    #[test]
    fn reading_is_taken_again_until_it_balances() {
        let mut received = [9000, 8000, 1001].into_iter();
        let read = || Ok(Counters { received: received.next().unwrap(), ..counters() });
        assert_eq!(Reading::take(read).unwrap().counters.received, 1001);
    }

    #[test]
    fn a_single_drop_fails_the_bench_and_is_named() {
        let lost = vec![("wrong_mac".to_owned(), 1)];
        let error = Counters { lost, ..counters() }.check(7).unwrap_err();
        assert!(error.to_string().contains("wrong_mac"), "{error}");
    }

    #[test]
    fn connections_have_to_be_the_flows_and_to_have_been_opened_once() {
        for connections in [(6, 7), (7, 8)] {
            assert!(Counters { connections: Some(connections), ..counters() }.check(7).is_err());
        }
        Counters { connections: None, ..counters() }.check(7).unwrap();
    }
}
