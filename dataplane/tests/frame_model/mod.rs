//! What a frame of several segments is, as simply as can be said, to compare the real ones with.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use dataplane::port::Frame;
use proptest::prelude::*;

/// Bytes of a buffer before and after the first byte of a fresh segment.
pub const HEADROOM: usize = 128;
pub const ROOM: usize = 2048;

/// One change of a frame.
#[derive(Clone, Debug)]
pub enum Step {
    Prepend(usize),
    RemoveFront(usize),
    Append(usize),
    Truncate(usize),
}

/// Frames to start with, by the lengths of their segments.
pub fn segments() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1_usize..40, Just(0), Just(ROOM)], 1..6)
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0_usize..140).prop_map(Step::Prepend),
        prop_oneof![0_usize..80, 2000_usize..2200].prop_map(Step::RemoveFront),
        prop_oneof![0_usize..80, 1900_usize..2100, Just(70_000)].prop_map(Step::Append),
        prop_oneof![0_usize..200, 0_usize..5000].prop_map(Step::Truncate),
    ];
    prop::collection::vec(step, 0..12)
}

/// The bytes of a frame with these segments.
pub fn contents(segments: &[usize]) -> Vec<Vec<u8>> {
    let mut next = 0_u32;
    let mut byte = || {
        next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (next >> 24) as u8
    };
    segments.iter().map(|&length| (0..length).map(|_| byte()).collect()).collect()
}

struct Segment {
    headroom: usize,
    bytes: Vec<u8>,
}

/// Does the steps to `frame`, whose segments hold `contents`, and to the model, and compares everything that can be seen
/// after each. `in_use` says how many buffers are out of the pool.
pub fn compare<F: Frame>(mut frame: F, contents: Vec<Vec<u8>>, steps: &[Step], in_use: impl Fn() -> usize) {
    let mut model: Vec<Segment> =
        contents.into_iter().map(|bytes| Segment { headroom: HEADROOM, bytes }).collect();
    compare_state(&frame, &model, &in_use);
    for (number, step) in steps.iter().enumerate() {
        let length: usize = model.iter().map(|segment| segment.bytes.len()).sum();
        let (done, expected) = match *step {
            Step::Prepend(bytes) => {
                let first = &mut model[0];
                let fits = bytes <= first.headroom;
                let done = frame.prepend(bytes);
                if fits && done {
                    let filler = vec![number as u8; bytes];
                    frame.bytes_mut()[..bytes].copy_from_slice(&filler);
                    first.headroom -= bytes;
                    first.bytes.splice(0..0, filler);
                }
                (done, fits)
            }
            Step::RemoveFront(bytes) => {
                let fits = bytes <= length;
                if fits {
                    let mut left = bytes;
                    while model.len() > 1 && left >= model[0].bytes.len() {
                        left -= model.remove(0).bytes.len();
                    }
                    model[0].bytes.drain(..left);
                    model[0].headroom += left;
                }
                (frame.remove_front(bytes), fits)
            }
            Step::Append(bytes) => {
                let last = model.last_mut().unwrap();
                let fits = last.headroom + last.bytes.len() + bytes <= HEADROOM + ROOM;
                if fits {
                    last.bytes.resize(last.bytes.len() + bytes, 0);
                }
                (frame.append(bytes), fits)
            }
            Step::Truncate(left) => {
                let fits = left <= length;
                if fits {
                    let mut rest = left;
                    let kept = model.iter().take_while(|segment| {
                        let goes_on = rest > segment.bytes.len();
                        rest = if goes_on { rest - segment.bytes.len() } else { rest };
                        goes_on
                    });
                    let last = kept.count();
                    model.truncate(last + 1);
                    model[last].bytes.truncate(rest);
                }
                (frame.truncate(left), fits)
            }
        };
        assert_eq!(done, expected, "{step:?}");
        compare_state(&frame, &model, &in_use);
    }
    drop(frame);
    assert_eq!(in_use(), 0);
}

fn compare_state<F: Frame>(frame: &F, model: &[Segment], in_use: &impl Fn() -> usize) {
    let whole: Vec<u8> = model.iter().flat_map(|segment| segment.bytes.iter().copied()).collect();
    assert_eq!(frame.length(), whole.len());
    assert_eq!(frame.bytes(), model[0].bytes);
    assert!(frame.is_exclusive());
    assert_eq!(frame.is_contiguous(), model.len() == 1);
    assert_eq!(in_use(), model.len());
    for offset in [0, 1, 30, whole.len() / 2, whole.len(), whole.len() + 1] {
        for room in [0, 1, 50, whole.len() + 7] {
            let mut copy = vec![0xaa; room];
            let expected = &whole[offset.min(whole.len())..];
            let expected = &expected[..expected.len().min(room)];
            assert_eq!(frame.copy_to(offset, &mut copy), expected.len());
            assert_eq!(&copy[..expected.len()], expected);
            assert!(copy[expected.len()..].iter().all(|&byte| byte == 0xaa));
        }
    }
}
