//! Generates the bindings from the distribution's DPDK headers, compiles wrappers of the static inlines, and links
//! what pkg-config says.

use std::env;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// Oldest release whose API the dataplane is written for: Debian 12's.
const OLDEST_DPDK: &str = "22.11";

const PACKAGES: &str = "libdpdk-dev libclang-dev pkg-config gcc";

const FUNCTIONS: &[&str] = &[
    "dr_.*",
    "rte_eal_cleanup",
    "rte_eal_get_runtime_dir",
    "rte_eal_init",
    "rte_eth_allmulticast_enable",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_dev_close",
    "rte_eth_dev_configure",
    "rte_eth_dev_get_mtu",
    "rte_eth_dev_get_name_by_port",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_info_get",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_find_next",
    "rte_eth_macaddr_get",
    "rte_eth_promiscuous_disable",
    "rte_eth_rx_burst",
    "rte_eth_rx_queue_setup",
    "rte_eth_stats_get",
    "rte_eth_tx_burst",
    "rte_eth_tx_queue_setup",
    "rte_mempool_avail_count",
    "rte_mempool_calc_obj_size",
    "rte_mempool_free",
    "rte_pktmbuf_alloc",
    "rte_pktmbuf_clone",
    "rte_pktmbuf_free",
    "rte_pktmbuf_free_bulk",
    "rte_pktmbuf_pool_create",
    "rte_strerror",
    "rte_thread_register",
    "rte_thread_unregister",
    "rte_version",
];

const TYPES: &[&str] =
    &["rte_eth_conf", "rte_eth_dev_info", "rte_eth_rx_mq_mode", "rte_eth_stats", "rte_ether_addr"];

const VARIABLES: &[&str] = &[
    "dr_.*",
    "RTE_ETH_NAME_MAX_LEN",
    "RTE_MAX_ETHPORTS",
    "RTE_MBUF_DEFAULT_BUF_SIZE",
    "RTE_MEMPOOL_CACHE_MAX_SIZE",
    "RTE_PKTMBUF_HEADROOM",
];

/// The dataplane touches an mbuf's fields through the dr_mbuf_ offsets only, and a few structs that ethdev's headers
/// pull in are both packed and aligned, which Rust has no type for (E0588).
const OPAQUE: &[&str] = &[
    "rte_mbuf",
    "rte_mempool",
    "rte_arp_ipv4",
    "rte_arp_hdr",
    "rte_l2tpv2_combined_msg_hdr",
    "rte_gtp_psc_generic_hdr",
];

fn main() {
    if let Err(reason) = build() {
        eprintln!("error: dpdk-sys: {reason}");
        exit(1);
    }
}

fn build() -> Result<(), String> {
    let library = find_dpdk()?;
    let flags = compiler_flags()?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run by cargo only")?);
    let wrappers = out.join("wrappers.c");
    generate_bindings(&flags, &wrappers, &out.join("bindings.rs"))?;
    compile_wrappers(&flags, &wrappers)?;
    tell_cargo(&library);
    Ok(())
}

fn find_dpdk() -> Result<pkg_config::Library, String> {
    let library =
        pkg_config::Config::new().cargo_metadata(false).env_metadata(false).probe("libdpdk").map_err(
            |error| match error {
                pkg_config::Error::Command { .. } => {
                    format!("pkg-config does not run; apt install {PACKAGES}")
                }
                _ => format!("no DPDK here (pkg-config does not know libdpdk); apt install {PACKAGES}"),
            },
        )?;
    if release(&library.version) < release(OLDEST_DPDK) {
        return Err(format!(
            "DPDK {} is too old, {OLDEST_DPDK} or later is needed: use Debian 12 or later and apt install {PACKAGES}",
            library.version
        ));
    }
    Ok(library)
}

/// Year and month of a DPDK version such as `22.11.11` or `24.11.0-rc1`.
fn release(version: &str) -> (u32, u32) {
    let mut numbers = version.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// All of DPDK's own flags. The pkg-config crate drops `-include rte_config.h` and `-march=`, and the layouts and
/// inlines depend on both.
fn compiler_flags() -> Result<Vec<String>, String> {
    let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let output = Command::new(program)
        .args(["--cflags", "libdpdk"])
        .output()
        .map_err(|error| format!("pkg-config does not run ({error}); apt install {PACKAGES}"))?;
    if !output.status.success() {
        return Err(format!("pkg-config --cflags libdpdk failed; apt install {PACKAGES}"));
    }
    let flags = String::from_utf8(output.stdout).map_err(|_| "pkg-config --cflags libdpdk: not UTF-8")?;
    Ok(flags.split_whitespace().map(str::to_owned).collect())
}

fn generate_bindings(flags: &[String], wrappers: &Path, bindings: &Path) -> Result<(), String> {
    let mut builder = bindgen::Builder::default()
        .header(concat!(env!("CARGO_MANIFEST_DIR"), "/wrapper.h"))
        .clang_args(flags)
        .use_core()
        .rust_edition(bindgen::RustEdition::Edition2024)
        .default_enum_style(bindgen::EnumVariation::ModuleConsts)
        .generate_comments(false)
        .layout_tests(true)
        .wrap_unsafe_ops(true)
        .wrap_static_fns(true)
        .wrap_static_fns_path(wrappers);
    builder = FUNCTIONS.iter().fold(builder, |builder, name| builder.allowlist_function(name));
    builder = TYPES.iter().fold(builder, |builder, name| builder.allowlist_type(name));
    builder = VARIABLES.iter().fold(builder, |builder, name| builder.allowlist_var(name));
    builder = OPAQUE.iter().fold(builder, |builder, name| builder.opaque_type(name));

    // bindgen panics where it finds no libclang; that panic's text is no answer to "what shall I install".
    panic::set_hook(Box::new(|_| {}));
    let generated = panic::catch_unwind(panic::AssertUnwindSafe(|| builder.generate()));
    drop(panic::take_hook());
    generated
        .map_err(|_| format!("libclang is missing or does not load; apt install {PACKAGES}"))?
        .map_err(|error| {
            let first = error.to_string().lines().next().unwrap_or_default().to_owned();
            format!("libclang cannot read DPDK's headers ({first}); apt install {PACKAGES}")
        })?
        .write_to_file(bindings)
        .map_err(|error| format!("cannot write {}: {error}", bindings.display()))
}

/// Optimised in debug builds too: rx and tx bursts go through these.
fn compile_wrappers(flags: &[String], wrappers: &Path) -> Result<(), String> {
    let mut build = cc::Build::new();
    build.file(wrappers).opt_level(3).warnings(false).cargo_metadata(false).cargo_warnings(false);
    for flag in flags {
        build.flag(flag);
    }
    build.try_compile("dpdk_wrappers").map_err(|error| {
        let first = error.to_string().lines().next().unwrap_or_default().to_owned();
        format!("cannot compile the wrappers of DPDK's static inlines ({first}); apt install {PACKAGES}")
    })
}

/// Links shared, in pkg-config's order. rustc puts `--as-needed` before libraries, so that the binary keeps the few
/// it uses; EAL loads the drivers itself from its default path.
fn tell_cargo(library: &pkg_config::Library) {
    let out = env::var("OUT_DIR").unwrap_or_default();
    println!("cargo::rustc-link-search=native={out}");
    println!("cargo::rustc-link-lib=static=dpdk_wrappers");
    for path in &library.link_paths {
        println!("cargo::rustc-link-search=native={}", path.display());
    }
    for name in &library.libs {
        println!("cargo::rustc-link-lib=dylib={name}");
    }
    println!("cargo::rerun-if-changed=wrapper.h");
    println!("cargo::rerun-if-changed=build.rs");
    for variable in ["PKG_CONFIG", "PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR", "LIBCLANG_PATH", "CC"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
}
