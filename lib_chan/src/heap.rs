//! What the memory allocator does with memory that was freed, where that costs more than all the rest.

use std::hint::black_box;

/// Twice this much free memory stays at the end of each of the allocator's heaps.
const HALF_KEPT: usize = 4 * 1024 * 1024;

/// Keeps up to 8 MiB of freed memory a heap for the next messages. For programs that bring large messages through; to be
/// called first of all. `chan-client` does.
///
/// The allocator of glibc gives memory back to the system when more than 128 KiB are free at the end of a heap, and the
/// system hands it out anew, a page fault for every 4 KiB. A service that takes messages of 16 KiB as fast as they come
/// frees as much with every batch, and spends half its time on that. But the allocator keeps twice the length of the
/// largest block that it has ever taken from the system by itself and been given back: mallopt(3), "dynamic mmap
/// threshold". Such a block is what this is. Other allocators keep more on their own; there it does nothing.
///
/// This is no bound on what a program keeps: memory below a block that is still in use stays with its heap. After a burst
/// of 250 hostile sessions 241 of 268 MiB stayed. A server that faces strangers uses jemalloc instead, as `chan-server`
/// does; see `docs/measurements/memory.md`.
pub fn keep_freed_memory() {
    if cfg!(all(target_os = "linux", target_env = "gnu")) {
        drop(black_box(Vec::<u8>::with_capacity(black_box(HALF_KEPT))));
    }
}
