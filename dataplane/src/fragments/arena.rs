//! The frames that wait for the first fragment of their packet: a fixed number of places, all packets' together, each
//! packet's a chain through them in order of arrival.

/// Index of no place.
const NONE: u32 = u32::MAX;

/// The frames of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    first: u32,
    last: u32,
    length: u32,
}

impl Chain {
    pub(super) const EMPTY: Chain = Chain { first: NONE, last: NONE, length: 0 };

    pub(super) fn length(&self) -> u32 {
        self.length
    }
}

#[derive(Debug)]
struct Place<F> {
    frame: Option<F>,
    /// The next place of the chain, or of those that are free.
    next: u32,
}

/// All places. Invariant: each is in exactly one chain or free, and has a frame exactly where it is in a chain.
#[derive(Debug)]
pub(super) struct Arena<F> {
    places: Box<[Place<F>]>,
    free: u32,
    held: u32,
}

impl<F> Arena<F> {
    pub(super) fn new(capacity: u32) -> Arena<F> {
        let next = |index| if index + 1 < capacity { index + 1 } else { NONE };
        let places = (0..capacity).map(|index| Place { frame: None, next: next(index) });
        let free = if capacity == 0 { NONE } else { 0 };
        Arena { places: places.collect(), free, held: 0 }
    }

    /// Frames in all chains.
    pub(super) fn held(&self) -> u32 {
        self.held
    }

    /// Places.
    pub(super) fn capacity(&self) -> u32 {
        self.places.len() as u32
    }

    /// Appends `frame` to `chain`; gives it back where no place is free.
    pub(super) fn push(&mut self, chain: &mut Chain, frame: F) -> Result<(), F> {
        let index = self.free;
        let Some(place) = self.places.get_mut(index as usize) else { return Err(frame) };
        self.free = place.next;
        *place = Place { frame: Some(frame), next: NONE };
        match self.places.get_mut(chain.last as usize) {
            Some(last) => last.next = index,
            None => chain.first = index,
        }
        chain.last = index;
        chain.length += 1;
        self.held += 1;
        Ok(())
    }

    /// Takes the first frame off `chain`.
    pub(super) fn pop(&mut self, chain: &mut Chain) -> Option<F> {
        let index = chain.first;
        let place = self.places.get_mut(index as usize)?;
        let frame = place.frame.take();
        chain.first = std::mem::replace(&mut place.next, self.free);
        chain.length -= 1;
        if chain.length == 0 {
            *chain = Chain::EMPTY;
        }
        self.free = index;
        self.held -= 1;
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_share_the_places_and_keep_their_order() {
        let mut arena = Arena::new(4);
        let (mut odd, mut even) = (Chain::EMPTY, Chain::EMPTY);
        for round in 0..10 {
            for number in 0..4 {
                let chain = if number % 2 == 1 { &mut odd } else { &mut even };
                assert_eq!(arena.push(chain, 10 * round + number), Ok(()));
            }
            assert_eq!(arena.push(&mut odd, 99), Err(99));
            assert_eq!((arena.held(), odd.length()), (4, 2));
            assert_eq!([arena.pop(&mut odd), arena.pop(&mut even)], [Some(10 * round + 1), Some(10 * round)]);
            assert_eq!(arena.pop(&mut even), Some(10 * round + 2));
            assert_eq!(arena.pop(&mut odd), Some(10 * round + 3));
            assert_eq!(arena.pop(&mut odd), None);
            assert_eq!((arena.held(), odd), (0, Chain::EMPTY));
        }
    }

    #[test]
    fn arena_without_places_takes_nothing() {
        let mut arena = Arena::new(0);
        assert_eq!(arena.push(&mut Chain::EMPTY.clone(), 1), Err(1));
        assert_eq!(arena.pop(&mut Chain::EMPTY.clone()), None);
    }
}
