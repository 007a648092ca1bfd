//! A service as text has it: one flat table, whatever names it.

use std::net::IpAddr;

use scheduler::Algorithm;
use serde::{Deserialize, Serialize};

use crate::config::{
    Family, GroupName, Persistence, Protocol, RealServerConfig, ServiceConfig, ServiceId, Timeouts,
    VirtualAddress,
};
use crate::explain::at_key;
use crate::scheduler_flags::FlagNames;

/// [`ServiceConfig`] in configuration and protocol.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceText {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<Protocol>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<GroupName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    family: Option<Family>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fwmark: Option<u32>,
    #[serde(default, with = "crate::algorithm")]
    scheduler: Algorithm,
    #[serde(default, skip_serializing_if = "is_default")]
    scheduler_flags: FlagNames,
    #[serde(default, skip_serializing_if = "is_default")]
    slow_start_seconds: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    one_packet: bool,
    // Tables last, so that TOML can write them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    persistence: Option<Persistence>,
    #[serde(default, skip_serializing_if = "Timeouts::is_empty")]
    timeouts: Timeouts,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    members: Vec<VirtualAddress>,
    #[serde(default)]
    real_servers: Vec<RealServerConfig>,
}

/// [`ServiceId`] in the protocol.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceIdText {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<Protocol>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<GroupName>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a group's members say of its family.
fn family_of(members: &[VirtualAddress]) -> Family {
    members.first().map(|member| Family::of(member.address)).unwrap_or_default()
}

impl TryFrom<ServiceIdText> for ServiceId {
    type Error = String;

    fn try_from(text: ServiceIdText) -> Result<Self, String> {
        let ServiceIdText { protocol, address, port, group } = text;
        match (group, protocol, address, port) {
            (Some(group), None, None, None) => Ok(ServiceId::Group(group)),
            (Some(_), ..) => {
                let message = "a service with `group` has no `protocol`, `address` and `port` of its own, but `members`";
                Err(at_key("group", message))
            }
            (None, Some(protocol), Some(address), Some(port)) => {
                Ok(ServiceId::Virtual(VirtualAddress { protocol, address, port }))
            }
            // In serde's own words, which `explain` knows.
            (None, None, ..) => Err("missing field `protocol`".to_owned()),
            (None, _, None, _) => Err("missing field `address`".to_owned()),
            (None, ..) => Err("missing field `port`".to_owned()),
        }
    }
}

impl From<ServiceId> for ServiceIdText {
    fn from(id: ServiceId) -> Self {
        match id {
            ServiceId::Virtual(VirtualAddress { protocol, address, port }) => ServiceIdText {
                protocol: Some(protocol),
                address: Some(address),
                port: Some(port),
                group: None,
            },
            ServiceId::Group(group) => {
                ServiceIdText { protocol: None, address: None, port: None, group: Some(group) }
            }
        }
    }
}

impl TryFrom<ServiceText> for ServiceConfig {
    type Error = String;

    fn try_from(text: ServiceText) -> Result<Self, String> {
        let ServiceText { protocol, address, port, group, .. } = text;
        let id = ServiceId::try_from(ServiceIdText { protocol, address, port, group })?;
        let of_groups = [
            ("family", text.family.is_some()),
            ("fwmark", text.fwmark.is_some()),
            ("members", !text.members.is_empty()),
        ];
        if let (None, Some((key, _))) = (group, of_groups.into_iter().find(|(_, is_given)| *is_given)) {
            return Err(at_key(key, "it is of service groups only, which have `group` instead of `address`"));
        }
        let flags = text.scheduler_flags.flags_of(text.scheduler);
        let mut real_servers = text.real_servers;
        for real_server in &mut real_servers {
            real_server.port = real_server.id().within(id).port;
        }
        Ok(ServiceConfig {
            id,
            group_family: text.family.unwrap_or_else(|| family_of(&text.members)),
            members: text.members,
            fwmark: text.fwmark,
            scheduler: text.scheduler,
            scheduler_flags: flags.map_err(|message| at_key("scheduler_flags", &message))?,
            slow_start_seconds: text.slow_start_seconds,
            persistence: text.persistence,
            one_packet: text.one_packet,
            timeouts: text.timeouts,
            real_servers,
        })
    }
}

impl From<ServiceConfig> for ServiceText {
    fn from(service: ServiceConfig) -> Self {
        let ServiceIdText { protocol, address, port, group } = service.id.into();
        let is_said = group.is_some() && service.group_family != family_of(&service.members);
        ServiceText {
            family: is_said.then_some(service.group_family),
            protocol,
            address,
            port,
            group,
            fwmark: service.fwmark,
            scheduler: service.scheduler,
            scheduler_flags: FlagNames::new(&service.scheduler_flags, service.scheduler),
            slow_start_seconds: service.slow_start_seconds,
            one_packet: service.one_packet,
            persistence: service.persistence,
            timeouts: service.timeouts,
            members: service.members,
            real_servers: service.real_servers,
        }
    }
}
