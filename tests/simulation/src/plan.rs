//! What a seed decides before the first step.

use std::time::Duration;

use lib_chan::Limits;

use crate::seeded::Seeded;

/// The circumstances of one schedule.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) steps: u64,
    /// Connections at the beginning.
    pub(crate) conns: usize,
    /// The client's and the server's.
    pub(crate) limits: [Limits; 2],
    /// Bytes that may be under way in each direction.
    pub(crate) capacity: usize,
    /// The longest that bytes take, in microseconds.
    pub(crate) latency: usize,
    /// The longest payload.
    pub(crate) payload: usize,
    /// A fault comes once in so many steps; 0 is never.
    pub(crate) faults: usize,
    /// The longest that a process thinks before it goes on, in microseconds.
    pub(crate) think: usize,
    /// What processes like to do.
    pub(crate) taste: Taste,
    /// Whether the login travels too.
    pub(crate) login: bool,
    /// Now and then a message is as long as one may be.
    pub(crate) full_frames: bool,
    /// Who unlinks likes to link again at once, or to give the channel away, and places are few.
    pub(crate) restless: bool,
    /// Both sides of a link take it back at the same moment, and link again before either has heard of the other.
    pub(crate) crossing: bool,
    /// All that happens is about the links of few processes, and the role of the owner goes from one to another.
    pub(crate) entangled: bool,
    /// Channels are given up for their remotes, or change hands, more than anything else.
    pub(crate) gives_up: bool,
    /// Calls have a few milliseconds, and are taken in the last of them.
    pub(crate) hurried: bool,
    /// One direction of each connection carries little, for longer than a stalled connection is tolerated.
    pub(crate) slow: bool,
}

/// What processes like to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taste {
    Anything,
    Calls,
    Flood,
    Links,
    Endings,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let mut seeded = Seeded::of_step(seed, u64::MAX);
        let taste = seeded.pick(&[
            Taste::Anything,
            Taste::Anything,
            Taste::Calls,
            Taste::Flood,
            Taste::Links,
            Taste::Endings,
        ]);
        // What the server says holds for both: there are few kinds, so that logins can be kept.
        let max_frame_len = seeded.pick(&[1024, 64 * 1024, 1024 * 1024]);
        let heartbeat_interval = Duration::from_secs(seeded.pick(&[1, 15]));
        let mut limits = [(); 2].map(|()| limits(&mut seeded, max_frame_len, heartbeat_interval));
        // These follow from the number alone, so that a schedule of another flavour stays what it was.
        let entangled = seed % 16 == 2;
        let restless = seed % 8 == 3 || entangled;
        let crossing = seed % 32 == 11;
        // Wide enough that messages wait for room, and not for credit.
        let wide = seed % 16 == 10;
        if wide {
            limits.iter_mut().for_each(|limits| limits.window_len = MIB);
        }
        // Of the entangled only half.
        if restless && !(entangled && seed % 32 == 2) {
            limits.iter_mut().for_each(|limits| limits.max_links = limits.max_links.min(2));
        }
        let gives_up = seed % 16 == 6;
        let hurried = seed % 32 == 5;
        let slow = seed % 32 == 13;
        if slow {
            for limits in &mut limits {
                limits.heartbeat_interval = Duration::from_secs(1);
                limits.max_unsent_before_pause = 500;
            }
        }
        let longest = max_frame_len - 64;
        Self {
            steps: 150 + seeded.below(250) as u64,
            conns: 1 + usize::from(seeded.once_in(4)),
            limits,
            capacity: match seeded.pick(&[300, 5_000, 100_000, 4_000_000]) {
                capacity if slow => capacity.min(5_000),
                capacity => capacity,
            },
            latency: match seeded.pick(&[0, 0, 300, 50_000, 2_000_000]) {
                _ if hurried || slow => 0,
                latency if crossing => latency.max(300),
                latency => latency,
            },
            payload: match taste {
                Taste::Flood => longest.min(90_000),
                _ if wide => longest.min(90_000),
                _ if slow => longest.min(400),
                _ => longest.min(seeded.pick(&[40, 40, 400, 20_000])),
            },
            faults: match seeded.pick(&[0, 50, 100, 200]) {
                _ if slow => 0,
                faults => faults,
            },
            think: match seeded.pick(&[0, 1_000, 100_000, 10_000_000]) {
                _ if hurried => 1_000,
                think => think,
            },
            taste: match (restless, wide, gives_up || hurried || slow) {
                (true, ..) => Taste::Links,
                (_, true, _) => Taste::Flood,
                (.., true) => Taste::Calls,
                _ => taste,
            },
            login: seeded.once_in(16) && !slow,
            full_frames: seed % 8 == 1 && max_frame_len == 1024,
            restless,
            crossing,
            entangled,
            gives_up,
            hurried,
            slow,
        }
    }
}

const MIB: usize = 1024 * 1024;

fn limits(seeded: &mut Seeded, max_frame_len: usize, heartbeat_interval: Duration) -> Limits {
    let mut limits = Limits::default();
    limits.max_frame_len = max_frame_len;
    limits.heartbeat_interval = heartbeat_interval;
    limits.window_len = 64 * 1024;
    limits.max_calls = seeded.pick(&[1, 2, 3, 1024]);
    limits.max_links = seeded.pick(&[1, 2, 4, 1024, 1024]);
    limits.max_untaken_exits = seeded.pick(&[2, 64]);
    limits.max_reflections = seeded.pick(&[6, 1024, 1024, 1024]);
    limits.max_unsent_before_pause = seeded.pick(&[500, 256 * 1024]);
    limits.max_unsent = seeded.pick(&[2_000, 16 * MIB, 16 * MIB, 16 * MIB]);
    limits
}
