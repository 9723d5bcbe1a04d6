//! The only source of chance.

/// A sequence that looks random, and is the same for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Seeded(u64);

impl Seeded {
    /// The sequence of one step of a schedule: it depends on nothing that the other steps did, so that a step can be
    /// left out and the others still make the choices they made.
    pub(crate) const fn of_step(seed: u64, step: u64) -> Self {
        let mut mixed = Self(seed ^ step.wrapping_mul(0xd134_2543_de82_ef95));
        mixed.next();
        mixed
    }

    /// The next number.
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number below `bound`, which is not 0.
    pub(crate) const fn below(&mut self, bound: usize) -> usize {
        // The high half of a product instead of a remainder: a division for each choice would be half of all work.
        ((self.next() as u128 * bound as u128) >> 64) as usize
    }

    /// True once in `of` times.
    pub(crate) const fn once_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// How many of `len` bytes go at once: often one, often few, sometimes all.
    pub(crate) fn piece(&mut self, len: usize) -> usize {
        let most = match self.below(8) {
            0 => 1,
            1 => 6,
            2 => 40,
            3 => 5000,
            _ => return len,
        };
        1 + self.below(most.min(len))
    }
}
