//! What `-h` and `-v` print. `-v` is ipvsadm's line, which scripts look for; the help is our own, of the same command line.

/// Each after the name of the program; the command comes first, as ipvsadm wants it.
const USAGES: &[&str] = &[
    "-A|-E SERVICE [-s SCHEDULER] [-b FLAG,...] [-p [SECONDS] [-M NETMASK]] [--pe sip] [-o]",
    "-D SERVICE",
    "-a|-e SERVICE -r RIP[:PORT] [-g | -m | -i [TUNNEL]] [-w WEIGHT] [-x UPPER] [-y LOWER]",
    "-d SERVICE -r RIP[:PORT]",
    "-L [SERVICE | -c | --timeout] [-n] [--stats|--rate|--thresholds|--persistent-conn] [--exact] [--nosort]",
    "-Z [SERVICE]",
    "-S [-n]",
    "-R <FILE",
    "-C",
    "--set TCP TCPFIN UDP",
    "-h | -v",
];

const OPTIONS: &str = "\
SERVICE is one of
  -t, --tcp-service VIP[:PORT]     -u, --udp-service VIP[:PORT]
      --sctp-service VIP[:PORT]    -f, --fwmark-service N [-6], a group of dr-director (dr-ctl add-group --fwmark)
An IPv6 address with a port stands in brackets: [2001:db8::10]:80

TUNNEL is some of
      --tun-type        ipip (unless given), gre, gue
      --tun-port        UDP port of gue
      --tun-nocsum --tun-csum (gre, gue) --tun-remcsum (gue)

Commands
  -A, --add-service     -E, --edit-service (what is not given goes back to its default)    -D, --delete-service
  -a, --add-server      -e, --edit-server (the same)                                       -d, --delete-server
  -L, -l, --list        -Z, --zero         -S, --save         -R, --restore (all lines or none)
  -C, --clear           --set (0 leaves one as it is)         -h, --help        -v, --version

Options
  -s, --scheduler       rr wrr lc wlc lblc lblcr dh sh sed nq fo ovf mh twos; wlc unless given
  -b, --sched-flags     flag-1 flag-2 flag-3, sh-fallback sh-port, mh-fallback mh-port
  -p, --persistent      clients stay with their real server for so many seconds; 360 unless given
  -M, --netmask         clients that are one under this mask, or IPv6 prefix length, stay together
      --pe              what a client is known by: sip
  -o, --ops             every UDP packet is scheduled for itself
  -r, --real-server     -g, --gatewaying (direct routing, the default), -m, --masquerading (NAT), -i, --ipip (tunnel)
  -w, --weight          0 to 65535; 1 unless given
  -x, --u-threshold     connections at which a real server gets no more; 0 for no limit
  -y, --l-threshold     connections below which it gets new ones again
  -c, --connection      list connections instead of services
  -n, --numeric         no names of hosts and services
      --stats --rate --thresholds --persistent-conn --tun-info --timeout --daemon    what is listed
  -X, --exact           whole numbers, not 123K
      --nosort          in the order of the configuration, the newest real server first

docs/IPVSADM.md says what differs from the ipvsadm of the kernel.
";

/// `-v`: the version of ipvsadm that this one is like.
pub(super) fn version() -> String {
    "ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v1.2.1)\n".to_owned()
}

/// `-h`.
pub(super) fn usage(program: &str) -> String {
    let usages: String = USAGES.iter().map(|usage| format!("  {program} {usage}\n")).collect();
    format!("{}Usage\n{usages}\n{OPTIONS}", version())
}

/// What the script ipvsadm-save says of an option that it does not know.
pub(super) fn save_script(name: &str) -> String {
    format!(
        "{name}: Script to save the IPVS table to stdout.\n   \
         With the -n option, prints out the table in numeric format."
    )
}
