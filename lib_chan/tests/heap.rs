//! Freed memory of large messages serves for the next ones.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

/// Pages that the system had to find for this program so far.
fn page_faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name of the program, in brackets, may hold anything; minor faults are the eighth field behind it.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(7).unwrap().parse().unwrap()
}

#[test]
fn repeated_large_batches_cost_no_page_faults() {
    const BATCHES: u64 = 100;
    const PAGES_OF_A_BATCH: u64 = 64 * 4;
    lib_chan::heap::keep_freed_memory();
    // A thread of its own has a heap of its own, as the threads of a runtime have.
    let batches = std::thread::spawn(|| {
        let batch = || drop((0..64).map(|n| vec![n; 16 * 1024]).collect::<Vec<Vec<u8>>>());
        batch();
        let before = page_faults();
        (0..BATCHES).for_each(|_| batch());
        page_faults() - before
    });
    let faults = batches.join().unwrap();
    assert!(faults < BATCHES * PAGES_OF_A_BATCH / 10, "{faults}");
}
