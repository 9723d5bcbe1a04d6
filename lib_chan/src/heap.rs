//! The treatment of freed memory by the allocator, for programs in which it costs more than everything else.

use std::hint::black_box;

/// Twice this much free memory stays at the end of each heap of the allocator.
const HALF_KEPT: usize = 4 * 1024 * 1024;

/// Keeps up to 8 MiB of freed memory in each heap for the next messages. For programs that pass large messages on,
/// such as `chan-client`. Must be called before anything else.
///
/// The allocator of glibc returns memory to the system when more than 128 KiB are free at the end of a heap, and the
/// system hands it out again with a page fault for every 4 KiB. A service that takes messages of 16 KiB at full speed
/// frees as much with every batch, and spends half its time on that. But the allocator keeps twice the length of the
/// largest block that it has got from the system separately and freed again: mallopt(3), "dynamic mmap threshold".
/// This function frees such a block. Other allocators keep more by themselves, and are not affected.
///
/// The amount is no bound on the memory that a program keeps: memory below a block in use stays with its heap. After
/// a burst of 250 hostile sessions, 241 of 268 MiB stayed. A server that faces strangers should use jemalloc, as
/// `chan-server` does; see `docs/measurements/memory.md`.
pub fn keep_freed_memory() {
    if cfg!(all(target_os = "linux", target_env = "gnu")) {
        drop(black_box(Vec::<u8>::with_capacity(black_box(HALF_KEPT))));
    }
}
