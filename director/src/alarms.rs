//! Drops that somebody should look at while they happen: each is a warning in `dr-ctl status` for five minutes, and a line in
//! the log when it begins.
//!
//! Control thread only. Drops that a hostile or broken sender causes are none of these.

use std::sync::Arc;
use std::time::Duration;

use dataplane::counters::WorkerCounters;
use dataplane::verdict::DropReason;

/// How long a warning is shown after the last such drop.
const SHOWN: Duration = Duration::from_secs(300);

/// What is watched, and what to do about it.
const WATCHED: [(DropReason, &str); 3] = [
    (
        DropReason::NoLocalPort,
        "full NAT has no local address and port left for some clients: add local addresses (dr-ctl add-lip)",
    ),
    (
        DropReason::ConnectionTableFull,
        "NAT needs a connection and a table is full: raise director.connection_capacity_per_worker",
    ),
    (
        DropReason::HandOverFull,
        "replies under NAT come faster than the workers that have their connections can take them: more workers, or let the \
         NIC spread them by addresses and ports (RSS)",
    ),
];

/// See the module.
#[derive(Debug, Default)]
pub struct Alarms([Alarm; WATCHED.len()]);

#[derive(Clone, Copy, Debug, Default)]
struct Alarm {
    dropped: u64,
    /// When it was last found to have grown.
    grown: Option<Duration>,
}

impl Alarm {
    fn is_shown(&self, now: Duration) -> bool {
        self.grown.is_some_and(|grown| now.saturating_sub(grown) < SHOWN)
    }
}

impl Alarms {
    /// Looks at the counters; what begins now, in words.
    pub fn look(
        &mut self,
        counters: &[Arc<WorkerCounters>],
        now: Duration,
    ) -> impl Iterator<Item = &'static str> {
        let looked = self.0.iter_mut().zip(WATCHED).filter_map(move |(alarm, (reason, text))| {
            let dropped = counters.iter().map(|worker| worker.dropped(reason)).sum();
            let (is_news, has_grown) = (!alarm.is_shown(now), dropped > alarm.dropped);
            if has_grown {
                *alarm = Alarm { dropped, grown: Some(now) };
            }
            (is_news && has_grown).then_some(text)
        });
        looked.collect::<Vec<_>>().into_iter()
    }

    /// What was seen lately, in words.
    pub fn warnings(&self, now: Duration) -> impl Iterator<Item = String> + '_ {
        let shown = self.0.iter().zip(WATCHED).filter(move |(alarm, _)| alarm.is_shown(now));
        shown.map(|(alarm, (reason, text))| {
            format!("{text} ({}: {} packets since the start)", reason.name(), alarm.dropped)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_is_told_when_it_begins_and_shown_for_a_while() {
        let counters = [WorkerCounters::new(1), WorkerCounters::new(1)];
        let mut alarms = Alarms::default();
        let second = Duration::from_secs;
        assert_eq!(alarms.look(&counters, second(0)).count(), 0);
        counters[1].dropped[DropReason::NoLocalPort as usize].add(3);
        counters[0].dropped[DropReason::BadSource as usize].add(3);
        assert_eq!(alarms.look(&counters, second(1)).collect::<Vec<_>>(), [WATCHED[0].1]);
        counters[0].dropped[DropReason::NoLocalPort as usize].add(1);
        assert_eq!(alarms.look(&counters, second(2)).count(), 0, "told already");
        let warnings: Vec<_> = alarms.warnings(second(301)).collect();
        assert!(matches!(&warnings[..], [one] if one.contains("no_local_port: 4 packets")), "{warnings:?}");
        assert_eq!(alarms.look(&counters, second(302)).count(), 0);
        assert_eq!(alarms.warnings(second(302)).count(), 0);
        counters[0].dropped[DropReason::NoLocalPort as usize].add(1);
        assert_eq!(alarms.look(&counters, second(400)).count(), 1, "it begins again");
    }
}
