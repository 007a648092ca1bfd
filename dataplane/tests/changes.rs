//! Whatever the sequence of configuration changes and packets, an established connection changes its real server only when a
//! rule says so, and none disappears but by its time or by a rule.
//!
//! The rules stand in [`Model::check`], told from what was in the table before the packet and what is there after it; the
//! worker's code is not asked.

mod rig;

use std::collections::HashMap;

use dataplane::connection::{Connection, ConnectionState};
use dataplane::persistence::{TemplateKey, TemplateLimits};
use dataplane::snapshot::{
    DestinationState, Options, Persistence, PersistenceScope, PersistentClient, Protocol, SharedCounts,
    Snapshot,
};
use dataplane::verdict::DropReason::RealServerRemoved;
use proptest::prelude::*;
use rig::*;
use scheduler::Algorithm;

const SLOTS: u32 = 4;
const CAPACITY: u32 = 20;
const FLOWS: u16 = 12;
/// A TCP service whose clients stay.
const HTTPS: u16 = 443;
const CLIENTS: u8 = 6;
const TEMPLATES: u32 = 4;
const NETMASK: u32 = u32::MAX;

#[derive(Clone, Debug)]
struct Configuration {
    algorithm: Algorithm,
    /// By slot; none where the real server is removed.
    real_servers: [Option<RealServerState>; SLOTS as usize],
    options: Options,
}

#[derive(Clone, Copy, Debug)]
struct RealServerState {
    weight: u32,
    upper_threshold: u32,
    refuses_persistent: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Publish(Configuration),
    Tcp { flow: u16, flags: u8 },
    Https { client: u8, flow: u16, flags: u8 },
    Udp { flow: u16 },
    Sctp { flow: u16, kind: u8 },
    Wait { ticks: u32 },
}

fn configuration() -> impl Strategy<Value = Configuration> {
    let real_server = (0_u32..3, prop_oneof![3 => Just(0_u32), 1 => 1_u32..6], proptest::bool::weighted(0.2))
        .prop_map(|(weight, upper_threshold, refuses_persistent)| RealServerState {
            weight,
            upper_threshold,
            refuses_persistent,
        });
    let options =
        (proptest::array::uniform4(any::<bool>()), 0_u8..4, prop_oneof![Just(0_u32), Just(1), Just(800)])
            .prop_map(|([sloppy_tcp, sloppy_sctp, secure_tcp, expire], conn_reuse_mode, rate)| Options {
                sloppy_tcp,
                sloppy_sctp,
                secure_tcp,
                conn_reuse_mode,
                expire_nodest_conn: expire,
                creation_rate_per_worker: rate,
                ..Options::default()
            });
    let algorithm = proptest::sample::select(Algorithm::ALL.to_vec());
    (algorithm, proptest::array::uniform4(proptest::option::weighted(0.7, real_server)), options)
        .prop_map(|(algorithm, real_servers, options)| Configuration { algorithm, real_servers, options })
}

fn step() -> impl Strategy<Value = Step> {
    let flags = || prop_oneof![4 => Just(SYN), 6 => Just(ACK), 2 => Just(FIN | ACK), 1 => Just(RST), 1 => any::<u8>()];
    let kind = prop_oneof![4 => Just(1_u8), 4 => Just(10_u8), 4 => Just(0_u8), 2 => 0_u8..16];
    prop_oneof![
        2 => configuration().prop_map(Step::Publish),
        10 => (0..FLOWS, flags()).prop_map(|(flow, flags)| Step::Tcp { flow, flags }),
        10 => (0..CLIENTS, 0_u16..2, flags())
            .prop_map(|(client, flow, flags)| Step::Https { client, flow, flags }),
        4 => (0..FLOWS).prop_map(|flow| Step::Udp { flow }),
        6 => (0..FLOWS, kind).prop_map(|(flow, kind)| Step::Sctp { flow, kind }),
        2 => prop_oneof![0_u32..600, 0_u32..300_000].prop_map(|ticks| Step::Wait { ticks }),
    ]
}

/// Protocol, client, its port, the VIP's port.
type Flow = (u8, [u8; 4], u16, u16);

fn flow_of(connection: &Connection) -> Flow {
    let tuple = connection.key.tuple(&connection.pair);
    let std::net::IpAddr::V4(client) = tuple.client else { panic!("IPv4 was sent") };
    (tuple.service.protocol.0, client.octets(), tuple.client_port, tuple.service.port)
}

struct Model {
    rig: Rig,
    now: u32,
    configuration: Configuration,
    /// By the VIP's port: each service has its own.
    last_stateless: HashMap<u16, u32>,
}

/// What a packet met and what became of it.
struct Outcome {
    before: Option<Connection>,
    after: Option<Connection>,
    /// Where its client's template led before.
    template: Option<u32>,
    went_to: Option<u32>,
    was_stateless: bool,
    was_untemplated: bool,
    is_drop_of_removed: bool,
}

/// What a packet is, told from its bytes.
struct Sent {
    frame: Vec<u8>,
    flow: Flow,
    /// SYN without RST, or INIT.
    opens: bool,
    /// A SYN, also one that is an RST, or an INIT: it ends a connection that is over.
    is_first: bool,
}

impl Model {
    fn new(configuration: Configuration) -> Model {
        let limits = TemplateLimits { capacity: TEMPLATES, ..template_limits() };
        let mut rig = Rig::with_templates(1, 1, CAPACITY, &limits, |counts| compile(counts, &configuration));
        apply_thresholds(&mut rig, &configuration);
        Model { rig, now: 0, configuration, last_stateless: HashMap::new() }
    }

    /// The connections whose time is not over.
    fn living(&self) -> HashMap<Flow, Connection> {
        let connections = self.rig.connections();
        let living = connections.iter().filter(|connection| connection.expires.0 > self.now);
        living.map(|connection| (flow_of(connection), *connection)).collect()
    }

    fn is_removed(&self, slot: u32) -> bool {
        self.configuration.real_servers[slot as usize].is_none()
    }

    fn has_weight(&self, slot: u32) -> bool {
        self.configuration.real_servers[slot as usize].is_some_and(|of| of.weight > 0)
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Publish(configuration) => self.publish(configuration.clone()),
            Step::Wait { ticks } => self.wait(*ticks),
            Step::Tcp { flow, flags } => self.send_tcp(HTTP, CLIENT, 1000 + flow, *flags),
            Step::Https { client, flow, flags } => {
                self.send_tcp(HTTPS, [203, 0, 113, *client], 1000 + flow, *flags);
            }
            Step::Udp { flow } => {
                let (port, frame) = (1000 + flow, udp(CLIENT, 1000 + flow, b""));
                self.send(Sent { frame, flow: (17, CLIENT, port, DNS), opens: false, is_first: false });
            }
            Step::Sctp { flow, kind } => {
                let (port, frame) = (1000 + flow, sctp(CLIENT, 1000 + flow, &chunk(*kind)));
                self.send(Sent {
                    frame,
                    flow: (132, CLIENT, port, DIAMETER),
                    opens: *kind == 1,
                    is_first: *kind == 1,
                });
            }
        }
        self.rig.assert_conservation();
        self.assert_counts();
    }

    fn send_tcp(&mut self, virtual_port: u16, client: [u8; 4], port: u16, flags: u8) {
        let mut frame = tcp_to(virtual_port, client, port, 0);
        frame[47] = flags;
        let flow = (6, client, port, virtual_port);
        let is_first = flags & SYN != 0;
        self.send(Sent { frame, flow, opens: is_first && flags & RST == 0, is_first });
    }

    /// Where the template of the packet's client leads, if it has one.
    fn template(&self, sent: &Sent) -> Option<u32> {
        let (_, client, _, virtual_port) = sent.flow;
        let key = TemplateKey::for_client(client, NETMASK, VIP.into(), virtual_port, Protocol::TCP);
        let found = self.rig.templates.find(&key, dataplane::clock::Ticks(self.now))?;
        (virtual_port == HTTPS).then_some(found.destination)
    }

    /// A new connection of a client that was there goes there again.
    fn keeps_clients(&self, slot: u32) -> bool {
        self.configuration.real_servers[slot as usize].is_some_and(|of| !of.refuses_persistent)
    }

    /// A change by itself moves and ends nothing; but connections of a removed real server may end at once.
    fn publish(&mut self, configuration: Configuration) {
        let before = self.living();
        apply_thresholds(&mut self.rig, &configuration);
        let snapshot = compile(&self.rig.counts, &configuration);
        self.configuration = configuration;
        self.rig.publish_snapshot(snapshot);
        self.assert_lasting(&before, None);
    }

    fn wait(&mut self, ticks: u32) {
        self.rig.hand.advance_ticks(ticks);
        self.now += ticks;
        let before = self.living();
        for _ in 0..4 {
            self.rig.poll();
        }
        self.assert_lasting(&before, None);
    }

    /// All of `before` but `of` are as they were, unless their real server was removed and they shall end with it.
    fn assert_lasting(&self, before: &HashMap<Flow, Connection>, of: Option<Flow>) {
        let after = self.living();
        for (flow, connection) in before {
            let may_end =
                self.configuration.options.expire_nodest_conn && self.is_removed(connection.destination);
            match after.get(flow) {
                _ if of == Some(*flow) => {}
                Some(now) => assert_eq!(now, connection),
                None => assert!(may_end, "{connection:?} is gone"),
            }
        }
    }

    fn send(&mut self, sent: Sent) {
        let before = self.living();
        let stateless = self.rig.counters[0].stateless_total();
        let untemplated = self.rig.counters[0].untemplated.load();
        let adopted = self.rig.counters[0].adopted.load();
        let dropped_removed = self.rig.dropped(RealServerRemoved);
        let template = self.template(&sent);
        let went_to = self.rig.slot_for(&sent.frame);
        let after = self.living();
        let was_stateless = self.rig.counters[0].stateless_total() > stateless;
        // An adopted connection's time may be cut short, so that it has to be adopted again.
        if was_stateless || self.rig.counters[0].adopted.load() > adopted {
            self.last_stateless.insert(sent.flow.3, self.now);
        }
        self.assert_lasting(&before, Some(sent.flow));
        assert!(after.keys().all(|flow| before.contains_key(flow) || *flow == sent.flow));
        let outcome = Outcome {
            before: before.get(&sent.flow).copied(),
            after: after.get(&sent.flow).copied(),
            template,
            went_to,
            was_stateless,
            was_untemplated: self.rig.counters[0].untemplated.load() > untemplated,
            is_drop_of_removed: self.rig.dropped(RealServerRemoved) > dropped_removed,
        };
        self.check(&sent, &outcome);
    }

    /// The rules.
    fn check(&self, sent: &Sent, outcome: &Outcome) {
        let options = &self.configuration.options;
        let &Outcome { before, after, went_to, was_stateless, .. } = outcome;
        if let Some(slot) = went_to {
            assert!(!self.is_removed(slot), "nothing goes to a removed real server");
        }
        // A full table is seen before the packet; the packet may have ended a connection in it.
        let is_full = self.rig.connections().len() as u32 + 1 >= CAPACITY;
        let last_stateless = self.last_stateless.get(&sent.flow.3);
        let is_adoptable = last_stateless.is_some_and(|last| self.now - last < 961 * 256);
        // An RST that may belong to a connection without state makes none.
        let may_be_reset = is_adoptable && !sent.is_first;
        let may_be_stateless =
            options.creation_rate_per_worker > 0 || is_full || sent.flow.3 == HTTPS || may_be_reset;
        assert!(!was_stateless || may_be_stateless);
        let Some(old) = before else {
            let is_sloppy = match sent.flow.0 {
                6 => options.sloppy_tcp,
                132 => options.sloppy_sctp,
                _ => true,
            };
            assert!(went_to.is_none() || sent.opens || is_sloppy || is_adoptable, "midway of nothing");
            return self.check_new(sent, outcome);
        };
        let is_quiesced = !self.is_removed(old.destination) && !self.has_weight(old.destination);
        let is_removed = self.is_removed(old.destination);
        let is_closed = matches!(
            old.state,
            ConnectionState::TimeWait | ConnectionState::Close | ConnectionState::SctpClosed
        );
        let is_fin_wait = old.state == ConnectionState::FinWait;
        let is_left = options.expire_nodest_conn && is_quiesced
            || old.link.is_none()
                && (options.conn_reuse_mode != 0 && is_closed
                    || options.conn_reuse_mode & 2 != 0 && is_fin_wait);
        if sent.is_first && is_left || is_removed && (sent.opens || options.expire_nodest_conn) {
            self.check_new(sent, outcome);
        } else if is_removed {
            assert!(outcome.is_drop_of_removed && went_to.is_none());
            assert_eq!(after, before, "neither moved nor re-armed");
        } else {
            assert_eq!(went_to, Some(old.destination), "{:?} of {old:?}", sent.flow);
            assert!(!was_stateless);
            let new = after.expect("it is known");
            assert_eq!((new.destination, new.link, new.flags), (old.destination, old.link, old.flags));
            assert!(new.expires.0 > self.now, "re-armed");
        }
    }

    /// A packet of no connection opens one, goes by the ring, or is dropped: to where the client's template leads, else to a
    /// real server that takes new connections.
    fn check_new(&self, sent: &Sent, outcome: &Outcome) {
        let &Outcome { after, went_to, was_stateless, template, .. } = outcome;
        assert_eq!(after.map(|new| new.destination), went_to.filter(|_| !was_stateless));
        match (went_to, template.filter(|&slot| self.keeps_clients(slot))) {
            (None, _) => {}
            (Some(slot), Some(kept)) => assert_eq!(slot, kept, "{:?} has a template", sent.flow),
            (Some(slot), None) => assert!(self.has_weight(slot)),
        }
        if let Some(new) = after {
            assert_eq!(new.link.is_some(), sent.flow.3 == HTTPS && !outcome.was_untemplated);
            if new.link.is_some() {
                assert_eq!(self.template(sent), went_to);
            }
        }
    }

    /// What the real servers are counted to have is what is in the table.
    fn assert_counts(&self) {
        for slot in 0..SLOTS {
            let of_slot: Vec<_> =
                self.rig.connections().into_iter().filter(|of| of.destination == slot).collect();
            let active = of_slot.iter().filter(|of| of.state.is_active()).count() as u32;
            assert_eq!(self.rig.counts(slot as usize), (active, of_slot.len() as u32 - active), "{slot}");
        }
        assert_eq!(self.rig.counters[0].connections.load(), self.rig.connections().len() as u64);
        assert!(self.rig.templates.len() <= TEMPLATES);
    }
}

fn real_servers(configuration: &Configuration) -> Vec<Rs> {
    (0..SLOTS)
        .filter_map(|slot| {
            let of = configuration.real_servers[slot as usize]?;
            Some(Rs { weight: of.weight, upper_threshold: of.upper_threshold, ..Rs::new(slot) })
        })
        .collect()
}

fn compile(counts: &SharedCounts, configuration: &Configuration) -> Snapshot {
    let real_servers = real_servers(configuration);
    let algorithm = configuration.algorithm;
    let mut snapshot = snapshot(counts, 1, algorithm, &real_servers);
    add_service(&mut snapshot, counts, algorithm, &real_servers, &[(Protocol::TCP, HTTPS)], |service| {
        service.persistence = Some(Persistence {
            timeout_ticks: 360 * 256,
            netmask: NETMASK.into(),
            client: PersistentClient::Address,
            scope: PersistenceScope::Virtual { port: HTTPS },
        });
    });
    snapshot.options = configuration.options;
    for (slot, of) in configuration.real_servers.iter().enumerate() {
        match of {
            Some(of) => snapshot.destinations[slot].refuses_persistent = of.refuses_persistent,
            None => snapshot.destinations[slot].state = DestinationState::Removed,
        }
    }
    snapshot
}

fn apply_thresholds(rig: &mut Rig, configuration: &Configuration) {
    set_thresholds(&rig.counts, &real_servers(configuration));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn established_connection_changes_its_real_server_only_by_a_rule(
        first in configuration(),
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        let mut model = Model::new(first);
        for step in &steps {
            model.run(step);
        }
    }
}
