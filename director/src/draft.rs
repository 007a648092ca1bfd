//! Commands as edits of what runs, on a draft of it.
//!
//! Pure. The draft knows what exists and what not; whether the outcome is valid is `changes.rs`'s to ask. Places are
//! looked up by hash, so that a batch of tens of thousands of commands takes milliseconds. A MAC, which all services of a
//! host get, is noted and written at the end: some hosts are in every service.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ctl::config::{
    ConnectionsConfig, Drain, GroupName, NatConfig, RealServerConfig, RealServerId, ServiceConfig, ServiceId,
    Timeouts, VirtualAddress,
};
use ctl::mac::MacAddress;
use ctl::protocol::{
    Command, DrainRs, ErrorCode, ErrorReply, MacSource, PersistenceChange, SetOptions, SetRs, SetVip,
};

/// The part of the configuration that runs and may change at any time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// How connections are kept.
    pub connections: ConnectionsConfig,
    /// What full NAT has.
    pub nat: NatConfig,
    /// The virtual services, oldest first.
    pub services: Vec<ServiceConfig>,
}

/// Settings being edited.
#[derive(Debug)]
pub struct Draft {
    connections: ConnectionsConfig,
    nat: NatConfig,
    /// In their order; none where removed.
    services: Vec<Option<ServiceDraft>>,
    places: HashMap<ServiceId, usize>,
    macs: HashMap<IpAddr, HostMac>,
}

/// The MAC that a host was given last.
#[derive(Debug)]
struct HostMac {
    /// None: it is asked for.
    mac: Option<MacAddress>,
    /// Places of the services that got the host afterwards, and with it a MAC of their own.
    later: HashSet<usize>,
}

/// A service being edited. Its real servers are in `config` until one of them is touched, then in `opened`.
#[derive(Debug)]
struct ServiceDraft {
    config: ServiceConfig,
    opened: Option<RealServers>,
}

/// Real servers in their order, with holes, and where each is.
#[derive(Debug)]
struct RealServers {
    entries: Vec<Option<RealServerConfig>>,
    places: HashMap<RealServerId, usize>,
}

impl Draft {
    /// What runs, unchanged.
    pub fn new(running: &Settings) -> Self {
        let services = running.services.iter();
        Draft {
            connections: running.connections.clone(),
            nat: running.nat.clone(),
            services: services.clone().map(|service| Some(ServiceDraft::new(service.clone()))).collect(),
            places: services.enumerate().map(|(place, service)| (service.id, place)).collect(),
            macs: HashMap::new(),
        }
    }

    /// Makes one change. `unix_now` is what a drain's timeout is counted from.
    pub fn edit(&mut self, command: &Command, unix_now: u64) -> Result<(), ErrorReply> {
        match command {
            Command::AddVip(new) => self.add_service(new),
            Command::SetVip(set) => {
                self.service(set.service).map(|service| set_service(&mut service.config, set))
            }
            Command::DelVip(one) => self.remove_service(one.service),
            Command::AddMember(one) => self.add_member(one.group, one.member),
            Command::DelMember(one) => self.remove_member(one.group, one.member),
            Command::AddRs(add) => self.add_real_server(add.service, &add.real_server),
            Command::SetRs(set) => self.set_real_server(set),
            Command::DelRs(one) => self.remove_real_server(one.service, one.real_server),
            Command::DrainRs(drain) => self.drain(drain, unix_now),
            Command::AddLip(one) => self.add_local_address(one.address),
            Command::DelLip(one) => self.remove_local_address(one.address),
            Command::Clear => {
                self.services.clear();
                self.places.clear();
                self.macs.clear();
                Ok(())
            }
            Command::SetOptions(set) => {
                set_options(&mut self.connections, set);
                Ok(())
            }
            Command::Zero(filter) => filter.service.map_or(Ok(()), |id| self.service(id).map(|_| ())),
            Command::Batch(_)
            | Command::Show(_)
            | Command::Stats(_)
            | Command::Connections(_)
            | Command::Neighbours
            | Command::Status
            | Command::Apply(_)
            | Command::Config => Err(no_edit(command)),
        }
    }

    /// The outcome.
    pub fn finish(self) -> Settings {
        let Draft { connections, nat, services, macs, .. } = self;
        let closed = services.into_iter().enumerate().filter_map(|(place, service)| {
            let mut config = service?.close();
            if !macs.is_empty() {
                set_macs(&mut config, place, &macs);
            }
            Some(config)
        });
        Settings { connections, nat, services: closed.collect() }
    }

    fn place(&self, id: ServiceId) -> Result<usize, ErrorReply> {
        self.places.get(&id).copied().ok_or_else(|| no_service(id))
    }

    fn service(&mut self, id: ServiceId) -> Result<&mut ServiceDraft, ErrorReply> {
        let place = self.place(id)?;
        self.services[place].as_mut().ok_or_else(|| no_service(id))
    }

    fn add_service(&mut self, new: &ServiceConfig) -> Result<(), ErrorReply> {
        if self.places.contains_key(&new.id) {
            let help = "change it with `dr-ctl set-vip`, or its real servers with `dr-ctl add-rs`";
            return Err(exists(format!("{} exists already", titled(new.id)), help));
        }
        let place = self.services.len();
        self.places.insert(new.id, place);
        new.real_servers.iter().for_each(|real_server| self.keep_mac(place, real_server.address));
        self.services.push(Some(ServiceDraft::new(new.clone())));
        Ok(())
    }

    fn remove_service(&mut self, id: ServiceId) -> Result<(), ErrorReply> {
        let place = self.places.remove(&id).ok_or_else(|| no_service(id))?;
        self.services[place] = None;
        Ok(())
    }

    fn add_member(&mut self, group: GroupName, member: VirtualAddress) -> Result<(), ErrorReply> {
        let members = &mut self.service(ServiceId::Group(group))?.config.members;
        if members.contains(&member) {
            let help = "`dr-ctl show` lists the members of each group";
            return Err(exists(format!("{member} is a member of group {group} already"), help));
        }
        members.push(member);
        Ok(())
    }

    fn remove_member(&mut self, group: GroupName, member: VirtualAddress) -> Result<(), ErrorReply> {
        let members = &mut self.service(ServiceId::Group(group))?.config.members;
        let Some(place) = members.iter().position(|known| *known == member) else {
            return Err(ErrorReply::new(
                ErrorCode::NotFound,
                format!("group {group} has no member {member}"),
            )
            .with_help("`dr-ctl show` lists the members of each group"));
        };
        members.remove(place);
        Ok(())
    }

    fn add_real_server(&mut self, id: ServiceId, new: &RealServerConfig) -> Result<(), ErrorReply> {
        let real_servers = self.service(id)?.open();
        let place = real_servers.entries.len();
        if real_servers.places.contains_key(&new.id()) {
            let message = format!("{} has real server {} already", titled(id), new.id());
            return Err(exists(message, "change it with `dr-ctl set-rs`"));
        }
        real_servers.places.insert(new.id(), place);
        real_servers.entries.push(Some(new.clone()));
        self.keep_mac(self.place(id)?, new.address);
        Ok(())
    }

    fn real_server(
        &mut self,
        id: ServiceId,
        real_server: RealServerId,
    ) -> Result<&mut RealServerConfig, ErrorReply> {
        let real_server = real_server.within(id);
        self.service(id)?.open().find(real_server).ok_or_else(|| no_real_server(id, real_server))
    }

    fn set_real_server(&mut self, set: &SetRs) -> Result<(), ErrorReply> {
        let real_server = self.real_server(set.service, set.real_server)?;
        real_server.weight = set.weight.unwrap_or(real_server.weight);
        real_server.upper_threshold = set.upper_threshold.unwrap_or(real_server.upper_threshold);
        real_server.lower_threshold = set.lower_threshold.unwrap_or(real_server.lower_threshold);
        real_server.drain = match set.drain {
            None => real_server.drain,
            Some(false) => None,
            // One that is drained already stays so, with its deadline.
            Some(true) => Some(real_server.drain.unwrap_or_default()),
        };
        real_server.set_forwarding(set.forwarding, set.tunnel, set.client_address);
        if let Some(mac) = set.mac {
            self.set_mac(set.real_server.address, mac);
        }
        Ok(())
    }

    /// A MAC belongs to the host: every service that has this real server gets it.
    fn set_mac(&mut self, address: IpAddr, mac: MacSource) {
        let mac = match mac {
            MacSource::Arp => None,
            MacSource::Static(mac) => Some(mac),
        };
        self.macs.insert(address, HostMac { mac, later: HashSet::new() });
    }

    /// The service got the host just now: a MAC that was set before is not for it.
    fn keep_mac(&mut self, place: usize, address: IpAddr) {
        if let Some(set) = self.macs.get_mut(&address) {
            set.later.insert(place);
        }
    }

    fn remove_real_server(&mut self, id: ServiceId, real_server: RealServerId) -> Result<(), ErrorReply> {
        let real_server = real_server.within(id);
        let real_servers = self.service(id)?.open();
        let place =
            real_servers.places.remove(&real_server).ok_or_else(|| no_real_server(id, real_server))?;
        real_servers.entries[place] = None;
        Ok(())
    }

    fn add_local_address(&mut self, address: IpAddr) -> Result<(), ErrorReply> {
        let known = &mut self.nat.local_addresses;
        if known.contains(&address) {
            let help = "`dr-ctl status` lists the local addresses";
            return Err(exists(format!("{address} is a local address already"), help));
        }
        known.push(address);
        Ok(())
    }

    fn remove_local_address(&mut self, address: IpAddr) -> Result<(), ErrorReply> {
        let known = &mut self.nat.local_addresses;
        let place = known.iter().position(|one| *one == address).ok_or_else(|| {
            ErrorReply::new(ErrorCode::NotFound, format!("{address} is no local address"))
                .with_help("`dr-ctl status` lists the local addresses")
        })?;
        known.remove(place);
        Ok(())
    }

    fn drain(&mut self, drain: &DrainRs, unix_now: u64) -> Result<(), ErrorReply> {
        let until = drain.timeout_seconds.map(|seconds| unix_now.saturating_add(u64::from(seconds)));
        let drained = Drain { until_unix_seconds: until, keep_persistent: drain.keep_persistent };
        self.real_server(drain.service, drain.real_server)?.drain = Some(drained);
        Ok(())
    }
}

impl ServiceDraft {
    fn new(config: ServiceConfig) -> Self {
        ServiceDraft { config, opened: None }
    }

    fn open(&mut self) -> &mut RealServers {
        let config = &mut self.config.real_servers;
        self.opened.get_or_insert_with(|| RealServers {
            places: config.iter().enumerate().map(|(place, known)| (known.id(), place)).collect(),
            entries: std::mem::take(config).into_iter().map(Some).collect(),
        })
    }

    fn close(self) -> ServiceConfig {
        match self.opened {
            None => self.config,
            Some(opened) => {
                let real_servers = opened.entries.into_iter().flatten().collect();
                ServiceConfig { real_servers, ..self.config }
            }
        }
    }
}

impl RealServers {
    fn find(&mut self, id: RealServerId) -> Option<&mut RealServerConfig> {
        self.entries[*self.places.get(&id)?].as_mut()
    }
}

fn set_macs(service: &mut ServiceConfig, place: usize, macs: &HashMap<IpAddr, HostMac>) {
    for real_server in &mut service.real_servers {
        if let Some(set) = macs.get(&real_server.address).filter(|set| !set.later.contains(&place)) {
            real_server.mac = set.mac;
        }
    }
}

fn set_service(service: &mut ServiceConfig, set: &SetVip) {
    service.scheduler = set.scheduler.unwrap_or(service.scheduler);
    service.scheduler_flags = set.scheduler_flags.unwrap_or(service.scheduler_flags);
    service.slow_start_seconds = set.slow_start_seconds.unwrap_or(service.slow_start_seconds);
    service.one_packet = set.one_packet.unwrap_or(service.one_packet);
    service.persistence = match set.persistence {
        None => service.persistence,
        Some(PersistenceChange::Off) => None,
        Some(PersistenceChange::On(persistence)) => Some(persistence),
    };
    service.fwmark = match set.fwmark {
        None => service.fwmark,
        Some(0) => None,
        Some(mark) => Some(mark),
    };
    set_timeouts(&mut service.timeouts, &set.timeouts);
}

fn set_options(connections: &mut ConnectionsConfig, set: &SetOptions) {
    macro_rules! set {
        ($($key:ident),+) => {
            // Taken apart, so that a new key cannot be forgotten here.
            let SetOptions { timeouts, $($key),+ } = set;
            set_timeouts(&mut connections.timeouts, timeouts);
            $(connections.$key = $key.unwrap_or(connections.$key);)+
        };
    }
    set!(
        sloppy_tcp,
        sloppy_sctp,
        secure_tcp,
        conn_reuse_mode,
        expire_nodest_conn,
        expire_quiescent_template,
        lblc_expiration_seconds,
        creation_rate_per_worker,
        pmtu_disc,
        tunnel_mss_clamp,
        schedule_icmp,
        nat_icmp_send
    );
}

/// Those that `set` names; 0 takes back what was said.
fn set_timeouts(timeouts: &mut Timeouts, set: &Timeouts) {
    for (timeout, new) in timeouts.values_mut().into_iter().zip(set.values()) {
        *timeout = match new {
            None => *timeout,
            Some(0) => None,
            Some(seconds) => Some(seconds),
        };
    }
}

fn no_edit(command: &Command) -> ErrorReply {
    let message = format!("`{}` cannot be part of a batch", command.verb());
    ErrorReply::new(ErrorCode::BadRequest, message).with_help("a batch holds changes of services and options")
}

fn exists(message: String, help: &str) -> ErrorReply {
    ErrorReply::new(ErrorCode::Exists, message).with_help(help)
}

/// `virtual service tcp 192.0.2.10:80`, `group web`.
fn titled(id: ServiceId) -> String {
    match id {
        ServiceId::Virtual(_) => format!("virtual service {id}"),
        ServiceId::Group(_) => id.to_string(),
    }
}

/// No such virtual service runs.
pub fn no_service(id: ServiceId) -> ErrorReply {
    let verb = match id {
        ServiceId::Virtual(_) => "add-vip",
        ServiceId::Group(_) => "add-group",
    };
    ErrorReply::new(ErrorCode::NotFound, format!("no {}", titled(id)))
        .with_help(format!("`dr-ctl show` lists the virtual services; `dr-ctl {verb}` adds one"))
}

fn no_real_server(id: ServiceId, real_server: RealServerId) -> ErrorReply {
    ErrorReply::new(ErrorCode::NotFound, format!("{} has no real server {real_server}", titled(id)))
        .with_help("`dr-ctl show` lists the real servers of each virtual service")
}
