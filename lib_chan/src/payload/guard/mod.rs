//! Bounds on the work that a payload may cause in serde, for every codec and type.
//!
//! The guard wraps the (de)serializer of the codec and everything that comes out of it: accessors, seeds, visitors.
//! It allocates nothing and knows no format. Encoding counts like decoding, so the sender refuses a value that the
//! receiver would refuse.

mod decode;
mod encode;

use std::{
    cell::{Cell, RefCell},
    fmt,
};

pub(super) use decode::Seed;
pub(super) use encode::Value;

use super::{
    MAX_DEPTH,
    handle::{Carried, Offer},
};

/// The bounds of a whole payload, and the processes in it.
pub(super) struct Allowance {
    /// The elements that sequences and maps may still have.
    elements: Cell<usize>,
    /// `None` if the payload is no message of a session, so that processes have no table to go into.
    carried: Option<RefCell<Carried>>,
}

impl Allowance {
    /// The budget of a payload with so many elements and no processes.
    pub(super) const fn new(elements: usize) -> Self {
        Self { elements: Cell::new(elements), carried: None }
    }

    /// The budget of a message of a session.
    pub(super) fn of_message(elements: usize) -> Self {
        Self { elements: Cell::new(elements), carried: Some(RefCell::default()) }
    }

    /// Returns the elements that are left.
    pub(super) const fn elements(&self) -> usize {
        self.elements.get()
    }

    /// Returns the processes of the message.
    pub(super) fn into_carried(self) -> Carried {
        self.carried.map(RefCell::into_inner).unwrap_or_default()
    }

    /// Calls `write`, which serializes a process.
    #[cold]
    fn place<T>(&self, write: impl FnOnce() -> T) -> T {
        let Some(carried) = &self.carried else { return write() };
        let offer = Offer::new(&carried.borrow());
        let result = write();
        offer.accept(&mut carried.borrow_mut());
        result
    }
}

/// The position of the codec in a value, and the work that is still allowed there.
#[derive(Clone, Copy)]
pub(super) struct Level<'a> {
    budget: &'a Allowance,
    /// The levels that values may still be nested.
    depth: u8,
}

impl<'a> Level<'a> {
    /// The level of the payload itself, and the budget for all that is in it.
    pub(super) fn top(budget: &'a Allowance) -> Self {
        Self { budget, depth: MAX_DEPTH }
    }

    /// The level of what is inside the value at this one.
    fn inside(self) -> Result<Self, Exceeded> {
        let depth = self.depth.checked_sub(1).ok_or(Exceeded::Depth)?;
        Ok(Self { depth, ..self })
    }

    /// Takes `count` from the remaining elements.
    fn claim(self, count: usize) -> Result<(), Exceeded> {
        let elements = &self.budget.elements;
        let left = elements.get().checked_sub(count).ok_or(Exceeded::Elements)?;
        elements.set(left);
        Ok(())
    }
}

/// The bound that a value exceeds.
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
