//! Values on the command line: how each is read, and what is said of one that is none.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use ctl::config::{
    ClientAddress, Family, Forwarding, PersistenceEngine, Protocol, RealServerId, Timeouts, TunnelChecksum,
    TunnelType, VirtualAddress,
};
use ctl::nearest::nearest;
use ctl::scheduler_flags;
use ctl::validate::{PORT_HELP, TIMEOUT_SECONDS};
use ipnet::{IpNet, Ipv4Net};
use scheduler::{Algorithm, SchedulerFlags};

/// Protocols as they are written.
pub(super) const PROTOCOLS: [(&str, Protocol); 3] =
    [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];

pub(super) fn protocol() -> impl TypedValueParser<Value = Protocol> {
    PossibleValuesParser::new(PROTOCOLS.map(|(name, _)| name))
        .try_map(|name| protocol_named(&name).ok_or("not a protocol"))
}

pub(super) fn protocol_named(text: &str) -> Option<Protocol> {
    PROTOCOLS.iter().find(|(name, _)| *name == text).map(|(_, protocol)| *protocol)
}

pub(super) fn scheduler() -> impl TypedValueParser<Value = Algorithm> {
    let names = Algorithm::ALL.iter().map(|algorithm| algorithm.name());
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Algorithm>())
}

/// What `--scheduler-flags` says to take all flags back.
const NO_FLAGS: &str = "none";

pub(super) fn scheduler_flag() -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(scheduler_flags::NAMES.iter().copied().chain([NO_FLAGS]))
}

/// The flags of these names; those of another scheduler than `scheduler`, where that is known, are refused.
pub(super) fn flags_named(names: &[String], scheduler: Option<Algorithm>) -> Result<SchedulerFlags, String> {
    let mut flags = SchedulerFlags::default();
    for name in names.iter().filter(|name| *name != NO_FLAGS) {
        if let Some(scheduler) = scheduler {
            scheduler_flags::check_name(name, scheduler)?;
        }
        scheduler_flags::set(&mut flags, name);
    }
    Ok(flags)
}

pub(super) fn engine() -> impl TypedValueParser<Value = PersistenceEngine> {
    PossibleValuesParser::new(["sip"]).map(|_| PersistenceEngine::Sip)
}

/// One of these names.
fn named<T: Copy + Send + Sync + 'static>(
    known: &'static [(&'static str, T)],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(known.iter().map(|(name, _)| *name)).try_map(|text| {
        known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or("not known")
    })
}

pub(super) fn forwarding() -> impl TypedValueParser<Value = Forwarding> {
    named(&Forwarding::ALL)
}

pub(super) fn tunnel_type() -> impl TypedValueParser<Value = TunnelType> {
    named(&TunnelType::ALL)
}

pub(super) fn tunnel_checksum() -> impl TypedValueParser<Value = TunnelChecksum> {
    named(&TunnelChecksum::ALL)
}

pub(super) fn client_address() -> impl TypedValueParser<Value = ClientAddress> {
    named(&ClientAddress::ALL)
}

pub(super) fn family() -> impl TypedValueParser<Value = Family> {
    named(&[("ipv4", Family::V4), ("ipv6", Family::V6)])
}

pub(super) fn on_or_off() -> impl TypedValueParser<Value = bool> {
    PossibleValuesParser::new(["on", "off"]).map(|word| word == "on")
}

/// A whole number in a range.
pub(super) fn number<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: Copy + Display + Into<i128> + TryFrom<i128> + Send + Sync + 'static,
{
    move |text| parse_number(text, text, &range)
}

fn parse_number<T>(digits: &str, shown: &str, range: &RangeInclusive<T>) -> Result<T, String>
where
    T: Copy + Display + Into<i128> + TryFrom<i128>,
{
    let (min, max) = (*range.start(), *range.end());
    let wanted = format!("give a whole number from {min} to {max}");
    let unsigned = digits.strip_prefix('-').unwrap_or(digits);
    if unsigned.is_empty() || !unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("`{shown}` is no whole number: {wanted}"));
    }
    match digits.parse::<i128>() {
        Ok(value) if value < min.into() => Err(format!("{shown} is under {min}: {wanted}")),
        Ok(value) if value <= max.into() => T::try_from(value).map_err(|_| wanted),
        _ if digits.starts_with('-') => Err(format!("{shown} is under {min}: {wanted}")),
        _ => Err(format!("{shown} is over {max}: {wanted}")),
    }
}

/// Seconds in a range, with a unit or without: `300`, `300s`, `5m`, `1h`, `1d`.
pub(super) fn seconds(range: RangeInclusive<u32>) -> impl Fn(&str) -> Result<u32, String> + Clone {
    move |text| parse_seconds(text, &range)
}

fn parse_seconds(text: &str, range: &RangeInclusive<u32>) -> Result<u32, String> {
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let unit =
        units.iter().find_map(|(unit, factor)| text.strip_suffix(*unit).map(|digits| (digits, *factor)));
    let (digits, factor) = unit.unwrap_or((text, 1_i128));
    let wanted = || {
        let (min, max) = (range.start(), range.end());
        format!("give seconds from {min} to {max}, such as 300, 300s, 5m, 1h or 1d")
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        return Err(format!("`{text}` is no time: {}", wanted()));
    }
    let value = digits.parse::<i128>().ok().and_then(|value| value.checked_mul(factor)).unwrap_or(i128::MAX);
    match u32::try_from(value) {
        Ok(value) if range.contains(&value) => Ok(value),
        Ok(value) if value < *range.start() => {
            Err(format!("{text} is under {}: {}", range.start(), wanted()))
        }
        _ => Err(format!("{text} is over {}: {}", range.end(), wanted())),
    }
}

/// The timeout of one state: `tcp_established=3600`; `default` takes back what was said of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct StateTimeout {
    index: usize,
    seconds: u32,
}

impl FromStr for StateTimeout {
    type Err = String;

    fn from_str(text: &str) -> Result<StateTimeout, String> {
        let known = || format!("known are {}", Timeouts::NAMES.join(", "));
        let Some((name, value)) = text.split_once('=') else {
            return Err(format!(
                "a state and its seconds are wanted, such as tcp_established=3600; {}",
                known()
            ));
        };
        let Some(index) = Timeouts::NAMES.iter().position(|known| *known == name) else {
            let meant = nearest(name, Timeouts::NAMES.iter().copied());
            let meant = meant.map(|meant| format!("did you mean `{meant}`? ")).unwrap_or_default();
            return Err(format!("`{name}` is no state: {meant}{}", known()));
        };
        let seconds = match value {
            "default" => 0,
            value => parse_seconds(value, &TIMEOUT_SECONDS)?,
        };
        Ok(StateTimeout { index, seconds })
    }
}

/// All of them; one that is given twice is refused.
pub(super) fn timeouts(given: &[StateTimeout]) -> Result<Timeouts, String> {
    let mut timeouts = Timeouts::default();
    for StateTimeout { index, seconds } in given {
        if timeouts.values_mut()[*index].replace(*seconds).is_some() {
            return Err(format!("--timeout: {} is given twice", Timeouts::NAMES[*index]));
        }
    }
    Ok(timeouts)
}

/// `192.0.2.10:80`, `[2001:db8::10]:80`
pub(super) fn vip_and_port(text: &str) -> Result<SocketAddr, String> {
    let wanted = || "a VIP and a port are wanted, such as 192.0.2.10:80 or [2001:db8::10]:80".to_owned();
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Err(format!("the port is missing, or the brackets are: write [{text}]:80"));
    }
    let (vip, port) = text.rsplit_once(':').ok_or_else(wanted)?;
    let vip: IpAddr = match vip.strip_prefix('[').and_then(|vip| vip.strip_suffix(']')) {
        Some(vip) => vip.parse::<std::net::Ipv6Addr>().map_err(|_| wanted())?.into(),
        None => vip.parse::<Ipv4Addr>().map_err(|_| wanted())?.into(),
    };
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("`{port}` is no port: {PORT_HELP}"));
    }
    match port.parse() {
        Ok(port) => Ok(SocketAddr::new(vip, port)),
        Err(_) => Err(format!("port {port} is over 65535: {PORT_HELP}")),
    }
}

/// `tcp:192.0.2.10:80`, `tcp:[2001:db8::10]:80`
pub(super) fn member(text: &str) -> Result<VirtualAddress, String> {
    let parts = text.split_once(':').and_then(|(name, rest)| Some((protocol_named(name)?, rest)));
    let Some((protocol, rest)) = parts else {
        return Err("a protocol, VIP and port are wanted, such as tcp:192.0.2.10:80".to_owned());
    };
    let vip = vip_and_port(rest)?;
    Ok(VirtualAddress { protocol, address: vip.ip(), port: vip.port() })
}

/// `10.0.0.11`, `10.0.0.11:8080`, `2001:db8::11`, `[2001:db8::11]:8080`
pub(super) fn rip(text: &str) -> Result<RealServerId, String> {
    text.parse().map_err(|_| {
        "an address is wanted, with a port where it has one of its own: 10.0.0.11, 10.0.0.11:8080, 2001:db8::11 or \
         [2001:db8::11]:8080"
            .to_owned()
    })
}

/// `10.0.0.200`
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "an address is wanted, such as 10.0.0.200 or 2001:db8::200".to_owned())
}

/// `255.255.255.0`
pub(super) fn netmask(text: &str) -> Result<Ipv4Addr, String> {
    text.parse().map_err(|_| {
        let length = text.strip_prefix('/').unwrap_or(text).parse::<u8>().ok();
        let mask = length.and_then(|length| Ipv4Net::new(Ipv4Addr::UNSPECIFIED, length).ok());
        match mask {
            Some(network) => format!(
                "a mask is wanted, not a prefix length: write {}, or for IPv6 --prefix-length",
                network.netmask()
            ),
            None => "a mask is wanted, such as 255.255.255.0".to_owned(),
        }
    })
}

/// `198.51.100.7`, `198.51.100.0/24`, `2001:db8:1::/48`
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let host = text.parse::<IpAddr>().map(IpNet::from);
    host.or_else(|_| text.parse())
        .map_err(|_| "an address or a network is wanted, such as 198.51.100.7 or 198.51.100.0/24".to_owned())
}
