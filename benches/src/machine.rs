//! Where it ran, so that numbers can be compared, and not compared.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// The machine, and what ran on it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// UTC.
    pub(crate) date: String,
    /// Model.
    pub(crate) cpu: String,
    /// How many the system has.
    pub(crate) cpus: usize,
    /// A virtual machine.
    pub(crate) is_virtual: bool,
    /// Of each CPU's level 3 cache, as the kernel says it.
    pub(crate) l3_cache: Option<String>,
    /// Memory, in MiB.
    pub(crate) memory_mib: u64,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Version of DPDK, as the director says.
    pub(crate) dpdk: String,
    /// Commit of the director; `-dirty` where its files have changed since.
    pub(crate) commit: String,
    /// Built for speed.
    pub(crate) is_release: bool,
}

impl Machine {
    /// This one.
    pub(crate) fn describe(dpdk: String) -> Machine {
        let unknown = || "unknown".to_owned();
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        let git = ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"];
        Machine {
            date: said("date", &["--utc", "+%Y-%m-%d %H:%M"]).unwrap_or_else(unknown),
            cpu: field(&cpuinfo, "model name")
                .or_else(|| field(&cpuinfo, "CPU part"))
                .unwrap_or_else(unknown),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            is_virtual: cpuinfo.lines().any(|line| {
                line.starts_with("flags") && line.split_whitespace().any(|flag| flag == "hypervisor")
            }),
            l3_cache: read("/sys/devices/system/cpu/cpu0/cache/index3/size")
                .map(|size| size.trim().to_owned()),
            memory_mib: memory_mib(&read("/proc/meminfo").unwrap_or_default()),
            kernel: read("/proc/sys/kernel/osrelease")
                .map_or_else(unknown, |release| release.trim().to_owned()),
            dpdk: dpdk.trim_start_matches("DPDK ").to_owned(),
            commit: said("git", &git).unwrap_or_else(unknown),
            is_release: !cfg!(debug_assertions),
        }
    }

    /// For people, in a line.
    pub(crate) fn in_words(&self) -> String {
        let kind = if self.is_virtual { "virtual machine, " } else { "" };
        let cache = self.l3_cache.as_ref().map(|size| format!(", L3 {size}")).unwrap_or_default();
        format!(
            "{kind}{} × {}{cache}, Linux {}, DPDK {}, commit {}",
            self.cpus, self.cpu, self.kernel, self.dpdk, self.commit
        )
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// What a command prints, in the folder of the sources.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).current_dir(sources()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// The workspace that this was built from.
pub(crate) fn sources() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

fn field(cpuinfo: &str, name: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_mib(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib =
        total.and_then(|rest| rest.split_whitespace().next()).and_then(|digits| digits.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_cpus_memory_and_a_kernel() {
        let machine = Machine::describe("DPDK 0".to_owned());
        assert!(machine.cpus > 0 && machine.memory_mib > 0, "{machine:?}");
        assert!(machine.in_words().contains(", DPDK 0,"), "{}", machine.in_words());
    }

    #[test]
    fn fields_are_found_by_name() {
        assert_eq!(field("processor\t: 0\nmodel name\t: A B\n", "model name").as_deref(), Some("A B"));
        assert_eq!(memory_mib("MemTotal:       24684000 kB\n"), 24_105);
    }
}
