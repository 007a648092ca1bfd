//! Checks of `director`: what the process is given at start.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use super::{Problem, range_problem};
use crate::config::DirectorConfig;

/// Workers at most: DPDK as distributed knows 128 threads (RTE_MAX_LCORE), and the control thread is one.
pub const WORKERS_MAX: usize = 127;
/// Highest CPU number: the kernel's `cpu_set_t` holds 1024 CPUs.
pub const CPU_MAX: usize = 1023;
/// Memory for DPDK, in MiB: from what one port with one worker needs to 1 TiB.
pub const MEMORY_MIB: RangeInclusive<u32> = 64..=1 << 20;
/// Packet buffers: DPDK's pool wants more than its per-thread cache of 256 and half again.
pub const MBUF_COUNT: RangeInclusive<u32> = 512..=1 << 24;
/// Bytes of a packet buffer: DPDK's headroom of 128 and as much again for small frames. A port whose frames or NIC
/// want more says so at start.
pub const MBUF_DATA_ROOM: RangeInclusive<u16> = 256..=u16::MAX;
/// Connections of a worker: at 48 bytes each, the highest is 12 GiB.
pub const CONNECTION_CAPACITY: RangeInclusive<u32> = 1..=1 << 28;
/// Persistence templates of all workers: the data plane names one in 24 bits.
pub const TEMPLATE_CAPACITY: RangeInclusive<u32> = 1..=1 << 24;
/// Virtual services, members of groups counted.
pub const SERVICE_CAPACITY: RangeInclusive<u32> = 1..=1 << 20;
/// Real servers.
pub const REAL_SERVER_CAPACITY: RangeInclusive<u32> = 1..=1 << 20;
/// Packets of a port for the host in a second: to what a kernel takes.
pub const HOST_PACKETS_PER_SECOND: RangeInclusive<u32> = 0..=10_000_000;
/// ICMP errors of a worker in a second.
pub const ICMP_PACKETS_PER_SECOND: RangeInclusive<u32> = 0..=1_000_000;
/// Fragmented packets that a worker knows at once.
pub const FRAGMENT_CAPACITY: RangeInclusive<u32> = 1..=1 << 20;
/// Longest path of a Unix socket: `sun_path` is 108 bytes with its NUL (unix(7)).
pub const CONTROL_SOCKET_BYTES_MAX: usize = 107;

pub(super) fn check(director: &DirectorConfig) -> Vec<Problem> {
    let mut problems = Vec::new();
    check_cpus("director.worker_cpus", &director.worker_cpus, &mut problems);
    if director.worker_cpus.len() > WORKERS_MAX {
        let message = format!("{} workers are over {WORKERS_MAX}", director.worker_cpus.len());
        problems.push(Problem::invalid("director.worker_cpus", message).help("list fewer CPUs"));
    }
    check_cpus("director.control_cpus", &director.control_cpus, &mut problems);

    let capacities = [
        ("director.memory_mib", director.memory_mib, MEMORY_MIB),
        (
            "director.connection_capacity_per_worker",
            director.connection_capacity_per_worker,
            CONNECTION_CAPACITY,
        ),
        ("director.template_capacity", director.template_capacity, TEMPLATE_CAPACITY),
        ("director.service_capacity", director.service_capacity, SERVICE_CAPACITY),
        ("director.real_server_capacity", director.real_server_capacity, REAL_SERVER_CAPACITY),
        ("director.host_packets_per_second", director.host_packets_per_second, HOST_PACKETS_PER_SECOND),
        ("director.icmp_packets_per_second", director.icmp_packets_per_second, ICMP_PACKETS_PER_SECOND),
        ("director.fragment_capacity_per_worker", director.fragment_capacity_per_worker, FRAGMENT_CAPACITY),
    ];
    problems.extend(
        capacities.into_iter().filter_map(|(place, value, range)| range_problem(place, value, &range)),
    );

    problems.extend(
        director.mbuf_count.and_then(|count| range_problem("director.mbuf_count", count, &MBUF_COUNT)),
    );
    problems.extend(
        director
            .mbuf_data_room
            .and_then(|bytes| range_problem("director.mbuf_data_room", bytes, &MBUF_DATA_ROOM)),
    );

    check_control_socket(director, &mut problems);
    problems
}

fn check_cpus(place: &str, cpus: &[usize], problems: &mut Vec<Problem>) {
    let mut first_at = HashMap::new();
    for (index, &cpu) in cpus.iter().enumerate() {
        let place_of = |index: usize| format!("{place}[{index}]");
        problems.extend(range_problem(place_of(index), cpu, &(0..=CPU_MAX)));
        let first = *first_at.entry(cpu).or_insert(index);
        if first != index {
            let message = format!("CPU {cpu} is at {} already", place_of(first));
            problems.push(Problem::invalid(place_of(index), message).help("list every CPU once"));
        }
    }
}

fn check_control_socket(director: &DirectorConfig, problems: &mut Vec<Problem>) {
    let place = "director.control_socket";
    let path = director.control_socket.as_os_str().as_encoded_bytes();
    if path.is_empty() || path.contains(&0) {
        let problem = Problem::invalid(place, "it is no path");
        problems.push(problem.help("give one such as /run/dr-director/control.sock"));
    } else if path.len() > CONTROL_SOCKET_BYTES_MAX {
        let message = format!(
            "its {} bytes are over the {CONTROL_SOCKET_BYTES_MAX} of a Unix socket's path",
            path.len()
        );
        problems.push(Problem::invalid(place, message).help("give a shorter path"));
    }
    if director.control_group.as_ref().is_some_and(|group| group.is_empty()) {
        let problem = Problem::invalid("director.control_group", "it is empty");
        problems.push(problem.help("name a group, or leave the key out"));
    }
}
