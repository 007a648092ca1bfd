//! What outlives EAL's owner keeps EAL alive: one test, since EAL starts once in a process.
#![cfg(feature = "dpdk")]

use dataplane::dpdk::eal::{Eal, EalConfig, EalError, HugepageUse};
use dataplane::dpdk::mempool::{MbufPool, PoolConfig};
use dataplane::port::{Frame, FramePool};

#[test]
fn frame_that_outlives_eal_is_still_readable_and_the_end_says_what_is_in_use() {
    let config = EalConfig {
        hugepages: HugepageUse::Off,
        memory_mib: 32,
        file_prefix: format!("dr-test-in-use-{}", std::process::id()),
        ..EalConfig::default()
    };
    let eal = Eal::init(config).unwrap();
    let pool = MbufPool::new(&eal, &PoolConfig { mbufs: 63, data_room: 2176, near: None }).unwrap();
    let frame = pool.frame(&[7; 100]).unwrap();
    drop(pool);
    let error = eal.cleanup().unwrap_err();
    assert!(matches!(error, EalError::StillInUse { holders: 0, mbufs: 1 }), "{error}");
    assert_eq!(frame.bytes(), [7; 100]);
    drop(frame);
}
