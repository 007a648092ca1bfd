//! Workers on threads of their own: one that dies is noticed, all stop in time.

use dataplane::dpdk::thread::allowed_cpus;
use dataplane::memory::MemoryPortConfig;
use director::workers::{Workers, WorkersError};

use crate::CONFIG;
use crate::rig::{assembled, gratuitous_arp, soon, until};

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

fn config() -> ctl::config::Config {
    ctl::config::Config::from_toml(CONFIG, "test").unwrap()
}

#[test]
fn worker_that_panics_is_noticed_and_named() {
    let (mut assembly, _ports, _clock) =
        assembled(&config(), 2, &MemoryPortConfig::default(), |worker, queues| {
            if worker == 0 {
                // The control thread's first announcement is more than it can bear.
                queues.verify(|_| panic!("as the test wants it"));
            }
        });
    let cpu = allowed_cpus().unwrap()[0];
    let workers = Workers::start(assembly.workers, &[cpu, cpu]).unwrap();
    assembly.control.tick();
    assert_eq!(run(soon("a worker's end", workers.ended())), 0);
    assert!(matches!(workers.stop(), Err(WorkersError::Panicked { number: 0 })));
}

#[test]
fn workers_run_until_they_are_stopped() {
    let (assembly, ports, _clock) = assembled(&config(), 2, &MemoryPortConfig::default(), |_, _| {});
    let cpu = allowed_cpus().unwrap()[0];
    let workers = Workers::start(assembly.workers, &[cpu, cpu]).unwrap();
    let frame = gratuitous_arp([2, 0, 0, 0, 0, 9], "10.0.0.99");
    assert!(ports[0].inject(0, &frame) && ports[0].inject(1, &frame));
    run(until("both received", || ports[0].waiting(0) + ports[0].waiting(1) == 0));
    workers.stop().unwrap();
}

#[test]
fn worker_on_a_cpu_that_does_not_exist_is_an_error_and_the_others_stop() {
    let (assembly, _ports, _clock) = assembled(&config(), 2, &MemoryPortConfig::default(), |_, _| {});
    let cpu = allowed_cpus().unwrap()[0];
    let error = Workers::start(assembly.workers, &[cpu, 1023]).unwrap_err();
    assert!(error.to_string().contains("1023"), "{error}");
}
