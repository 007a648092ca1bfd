//! The control thread over ports in memory: its socket and hostile clients, ARP and ping, connections, /metrics.

#[path = "../rig/mod.rs"]
mod rig;

mod arp;
mod commands;
mod connections;
mod control_socket;
mod discovery;
mod drains;
mod host_interface;
mod methods;
mod metrics;
mod vlans;
mod workers;

/// Two ports, a TCP service with two real servers and a UDP one with one.
const CONFIG: &str = r#"
    [director]
    connection_capacity_per_worker = 16384
    real_server_capacity = 64
    metrics_listen = "off"
    [[ports]]
    name = "inside"
    device = "memory0"
    addresses = ["10.0.0.1/24"]
    [[ports]]
    name = "outside"
    device = "memory1"
    addresses = ["192.0.2.1/24"]
    [[services]]
    protocol = "tcp"
    address = "192.0.2.10"
    port = 80
    scheduler = "rr"
    real_servers = [{ address = "10.0.0.11" }, { address = "10.0.0.12", mac = "02:00:00:00:00:12" }]
    [[services]]
    protocol = "udp"
    address = "198.51.100.10"
    port = 53
    real_servers = [{ address = "10.0.0.12", mac = "02:00:00:00:00:12" }]
"#;

/// Arguments that name the TCP service.
const SERVICE: &str = r#""service":{"protocol":"tcp","address":"192.0.2.10","port":80}"#;
