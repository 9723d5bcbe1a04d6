//! What a payload may make serde do, whichever codec and type it meets.
//!
//! The guard wraps the codec's (de)serializer and everything that comes out of it: accessors, seeds, visitors. It
//! allocates nothing and knows no format. Encoding counts the same way as decoding does, so that what is refused is
//! refused by its sender, before it travels.

mod decode;
mod encode;

use std::{cell::Cell, fmt};

pub(super) use decode::Seed;
pub(super) use encode::Value;

use super::MAX_DEPTH;

/// Where in a value the codec is, and what it may still do there.
#[derive(Clone, Copy)]
pub(super) struct Level<'a> {
    /// Elements that sequences and maps of the whole payload may still have.
    elements: &'a Cell<usize>,
    /// Values that may still be around the ones to come.
    depth: u8,
}

impl<'a> Level<'a> {
    /// The level of the payload itself, and `elements` for all that is in it.
    pub(super) fn top(elements: &'a Cell<usize>) -> Self {
        Self { elements, depth: MAX_DEPTH }
    }

    /// The level of what is inside the value at this one.
    fn inside(self) -> Result<Self, Exceeded> {
        let depth = self.depth.checked_sub(1).ok_or(Exceeded::Depth)?;
        Ok(Self { depth, ..self })
    }

    /// Takes `count` from the elements that are left.
    fn claim(self, count: usize) -> Result<(), Exceeded> {
        let left = self.elements.get().checked_sub(count).ok_or(Exceeded::Elements)?;
        self.elements.set(left);
        Ok(())
    }
}

/// Which bound a value does not keep.
#[derive(Clone, Copy, Debug)]
pub(super) enum Exceeded {
    Depth,
    Elements,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Depth => write!(f, "more than {MAX_DEPTH} values inside one another"),
            Self::Elements => f.write_str("more elements than the payload has bytes"),
        }
    }
}
