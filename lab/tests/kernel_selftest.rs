//! The kernel's own IPVS selftest (`tools/testing/selftests/net/netfilter/ipvs.sh`): its topology and its checks, with
//! dr-director on two DPDK ports where the kernel's IPVS was, and again over IPv6. Its case of a tunnel is in
//! `tunnels.rs`, for the kernel that this runs on need not have tunnels.
//!
//! | host | interfaces |
//! |---|---|
//! | ns0, client | `veth01` and `veth02` in bridge `br0`, 10.0.0.2/24, 2001:db8::2/64 |
//! | ns1, director | `veth10` to `veth01`, 10.0.0.1/24, 2001:db8::1/64; `veth12` to `veth21`, 172.16.0.1/24, 2001:db8:16::1/64 |
//! | ns2, real server | `veth21`, 172.16.0.2/24, 2001:db8:16::2/64; `veth20` to `veth02`, 10.0.0.3/24, 2001:db8::3/64 |

use anyhow::Result;
use lab::selftest::{Case, run};
use lab::{Family, Method};

#[test]
fn direct_routing_random_bytes_through_the_vip_arrive_byte_for_byte() -> Result<()> {
    run(Case { method: Method::Direct, family: Family::V4, bytes: 32 })
}

#[test]
fn nat_random_bytes_through_the_vip_arrive_byte_for_byte() -> Result<()> {
    run(Case { method: Method::Nat, family: Family::V4, bytes: 32 })
}

#[test]
fn direct_routing_over_ipv6_random_bytes_through_the_vip_arrive_byte_for_byte() -> Result<()> {
    run(Case { method: Method::Direct, family: Family::V6, bytes: 32 })
}

#[test]
fn nat_over_ipv6_random_bytes_through_the_vip_arrive_byte_for_byte() -> Result<()> {
    run(Case { method: Method::Nat, family: Family::V6, bytes: 32 })
}

/// The selftest's data fits one packet. This takes full-size ones, in one direction more than the director's rings hold.
#[test]
fn direct_routing_four_mebibytes_through_the_vip_arrive_byte_for_byte() -> Result<()> {
    run(Case { method: Method::Direct, family: Family::V4, bytes: 4 << 20 })
}

#[test]
fn nat_four_mebibytes_through_the_vip_arrive_byte_for_byte() -> Result<()> {
    run(Case { method: Method::Nat, family: Family::V4, bytes: 4 << 20 })
}
