//! Frames of several segments in memory against their model, and what a test can make of them. The same for mbufs is in
//! `dpdk_frames.rs`.

mod frame_model;

use dataplane::memory::{MemoryPort, MemoryPortConfig};
use dataplane::port::{Burst, Frame, FramePool, QueuePair};
use proptest::prelude::*;

proptest! {
    #[test]
    fn frame_in_memory_is_what_the_model_says_after_each_change(
        segments in frame_model::segments(),
        steps in frame_model::steps(),
    ) {
        let config = MemoryPortConfig { frames: 8, frame_size: frame_model::ROOM, ..MemoryPortConfig::default() };
        let pool = MemoryPort::new(config).0.pool();
        let contents = frame_model::contents(&segments);
        let frame = pool.frame_of_segments(contents.iter().map(Vec::as_slice)).unwrap();
        frame_model::compare(frame, contents, &steps, || pool.capacity() - pool.available());
    }
}

#[test]
fn frame_injected_in_segments_is_received_in_them_and_sent_whole() {
    let (port, mut pairs) = MemoryPort::new(MemoryPortConfig::default());
    let bytes: Vec<u8> = (0..200).collect();
    assert!(port.inject_segments(0, &bytes, &[14, 34, 34]));
    let mut burst = Burst::new();
    pairs[0].receive(&mut burst);
    let frame = &burst[0];
    assert_eq!((frame.length(), frame.bytes().len()), (200, 14));
    assert!(!frame.is_contiguous() && frame.is_exclusive());
    pairs[0].transmit(&mut burst);
    assert_eq!(port.take_transmitted(), [bytes]);
    assert_eq!(port.pool().available(), port.pool().capacity());
}

#[test]
fn frame_that_loses_its_tag_at_the_port_says_so_until_told_to_forget_it() {
    let (port, mut pairs) = MemoryPort::new(MemoryPortConfig::default());
    let mut tagged = vec![0xee; 60];
    tagged[12..18].copy_from_slice(&[0x81, 0x00, 0xa0, 0x64, 0x08, 0x00]);
    assert!(port.inject_untagging(0, &tagged));
    let mut burst = Burst::new();
    pairs[0].receive(&mut burst);
    let frame = &mut burst[0];
    assert_eq!((frame.vlan_tci(), frame.length()), (Some(0xa064), 56));
    assert_eq!(frame.bytes()[12..14], [0x08, 0x00]);
    frame.clear_vlan_tci();
    assert_eq!(frame.vlan_tci(), None);
}

#[test]
fn shared_frame_is_not_changed() {
    let (port, _pairs) = MemoryPort::new(MemoryPortConfig::default());
    let mut frame = port.pool().frame(&[7; 100]).unwrap();
    frame.set_shared(true);
    assert!(!frame.is_exclusive() && !frame.is_contiguous());
    assert!(frame.bytes_mut().is_empty());
    assert!(!frame.prepend(1) && !frame.remove_front(1) && !frame.append(1) && !frame.truncate(1));
    assert_eq!(frame.bytes(), [7; 100]);
}

#[test]
fn allocated_frame_is_empty_and_takes_a_packet_and_headers_before_it() {
    let (port, mut pairs) = MemoryPort::new(MemoryPortConfig { headroom: 20, ..MemoryPortConfig::default() });
    let mut frame = pairs[0].allocate().unwrap();
    assert_eq!(frame.length(), 0);
    assert!(frame.append(40) && frame.prepend(20));
    assert!(!frame.prepend(1), "no headroom left");
    assert_eq!(frame.length(), 60);
    assert_eq!(frame.bytes()[20..], [0; 40]);
    drop(frame);
    let all: Vec<_> = std::iter::from_fn(|| pairs[0].allocate()).collect();
    assert_eq!(all.len(), port.pool().capacity());
}
