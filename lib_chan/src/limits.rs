//! The bounds that an owner may set.

use std::time::{Duration, Instant};

/// The bounds of a server or a client, with their defaults.
///
/// This is the only place where the defaults are written. Every time but `heartbeat_interval` may be up to
/// [`Duration::MAX`].
///
/// ```
/// use std::time::Duration;
/// use lib_chan::Limits;
///
/// let mut limits = Limits::default();
/// limits.max_sessions = 500;
/// limits.call_timeout = Duration::from_secs(5);
/// assert_eq!(limits.max_frame_len, 1024 * 1024);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Time to resolve a host and connect to one of its addresses: of a client to its server, of a `tcp` service to its
    /// target. Default 10 s.
    pub dial_timeout: Duration,
    /// Time for the TLS handshake. Default 5 s.
    pub tls_timeout: Duration,
    /// Time from accept to the end of the login, TLS included. Default 15 s.
    pub login_timeout: Duration,
    /// Number of connections that are not logged in from which on a growing part of new ones is dropped. Default 128.
    pub max_logins_before_drop: usize,
    /// The part dropped at `max_logins_before_drop`, in percent; grows to all at `max_logins`. Default 30.
    pub login_drop_percent: u8,
    /// Most connections that are not logged in. Default 1 024.
    pub max_logins: usize,
    /// Most connections of one source (an IPv4 address, an IPv6 /64) that are not logged in. Default 16.
    pub max_logins_per_source: usize,
    /// The longest frame after the login, in bytes without its length. Told to the peer; 1 KiB to 16 MiB.
    /// Default 1 MiB. Cost: one such buffer a session while one is being received.
    pub max_frame_len: usize,
    /// Most sessions of a server. The last quarter is for services that have less than an equal share, and for clients that
    /// have less than a quarter of all or a number of their own. Default 10 000.
    pub max_sessions: usize,
    /// Most sessions of one service. Default 10 000.
    pub max_sessions_per_service: usize,
    /// Most sessions of one named client, or of one source address under a shared password. Each stream of a `forward`
    /// counts as one. Default 300: more than the 256 that a `forward` carries, since some end while others begin.
    pub max_sessions_per_client: usize,
    /// Credit window: payload bytes, plus 64 for each message, that a peer may send ahead to one process. At least 64
    /// KiB. Default 256 KiB. Cost: this much memory for a session whose process does not read. For bulk data in one
    /// direction, 1 MiB is about a fifth faster.
    pub window_len: usize,
    /// The length to which a window may grow on a path that carries more than `window_len` in a round trip, while its
    /// process takes the messages. At `window_len` or less it never grows. Default 16 MiB.
    pub max_window_len: usize,
    /// Bytes by which the windows of all sessions of the program together may have grown. One client, or one address under
    /// a shared password, gets at most half of them. Default 256 MiB.
    pub max_windows_in_all: usize,
    /// Unsent bytes of a session above which `recv` returns no more messages of it. Long answers go in parts, and other
    /// answers between these; the four that take turns are not counted here, up to `max_frame_len` each and `max_unsent` with
    /// all else. Default 256 KiB.
    pub max_unsent_before_pause: usize,
    /// Unsent bytes of a session, beyond one frame of the greatest length, above which it ends with `overload`.
    /// Default 16 MiB.
    pub max_unsent: usize,
    /// Bytes that all sessions of the program hold together because of their peers: incomplete frames, messages that
    /// no process has taken, and output that the network has not accepted. The total never exceeds this, as long as
    /// there are no more than `max_sessions` sessions. Default 512 MiB.
    ///
    /// Above half of it, a session with unsent output returns no more messages, so that no credit returns, and a
    /// session that holds more than its share ends with `overload`. At half, the share is `max_unsent_before_pause`
    /// and five times `max_frame_len` together. It is halved again and again as the total grows. From three quarters on it is an
    /// eighth of this bound, divided by `max_sessions`. So the sessions that hold most end first.
    ///
    /// One client, or one address under a shared password, may hold half of this. For its sessions, the total counts as at
    /// least twice what they hold, so a client that holds much runs out of room before others do.
    pub max_held_in_all: usize,
    /// Bytes of frames that a resumable session keeps until the peer has acknowledged them; at least the credit
    /// window that the peer grants and 128 KiB, and more as that window grows, up to `max_window_len` and 128 KiB. At
    /// this bound messages wait, and `recv` returns no more of them. Kept bytes count towards `max_held_in_all`, with
    /// and without a connection. Default 1 MiB.
    pub max_retained: usize,
    /// Most resumable sessions of a server. Further sessions open without resume. Default 10 000.
    pub max_resumable: usize,
    /// Most resumable sessions of one named client, or of one source address under a shared password. Default 300.
    pub max_resumable_per_client: usize,
    /// Most records that a server keeps of resumable sessions that have ended. They tell a client that comes back the true
    /// reason. Default 10 000.
    pub max_tombstones: usize,
    /// Most such records of one named client, or of one source address under a shared password. Default 300.
    pub max_tombstones_per_client: usize,
    /// Calls that the peer may have in flight. Told to the peer. Default 1 024.
    pub max_calls: u32,
    /// Links and monitors together that the peer may have in a session. Told to the peer. Default 1 024.
    pub max_links: u32,
    /// Processes of the peer that it may have handed out in messages of a session and that this end has not released. Told
    /// to the peer. Default 1 024.
    pub max_handles: u32,
    /// Silence after which a ping is sent. After three times this, the connection counts as lost. Both ends use the value of
    /// the server. 1 to 300 s. Default 15 s.
    pub heartbeat_interval: Duration,
    /// Time after which a stalled connection counts as lost. Stalled means that bytes waited to be sent all the time and the
    /// stream accepted less than `min_accepted`, or that a frame was incomplete all the time and less than `min_accepted` of
    /// it arrived. Default 60 s.
    pub stall_timeout: Duration,
    /// Bytes that the stream must accept, and bytes of an incomplete frame that must arrive, within `stall_timeout`.
    /// Default 64 KiB.
    pub min_accepted: usize,
    /// Messages from other processes of the program that the mailbox of a service's process holds. Messages of its
    /// session are bounded by `window_len` instead. Default 1 024, which is also the default of
    /// `SpawnOptions`.
    pub mailbox_capacity: usize,
    /// Timeout of calls that do not state one. A call to the far end waits 30 days at most. Default 60 s.
    pub call_timeout: Duration,
    /// Time for which `close` waits for progress of the other end before it reports `noconnection`. A peer that
    /// accepts what was sent before may take longer, as long as it does not stall (`stall_timeout`). Default 10 s.
    pub close_timeout: Duration,
    /// Time for which a session that has ended continues to read and discard, so that its last frames arrive. Default
    /// 2 s.
    pub last_words_timeout: Duration,
    /// Acks, pongs and answers about links and monitors that may wait to be sent. With more, the session ends with
    /// `overload`. Default 16 384. Cost: about 12 bytes each.
    pub max_reflections: usize,
    /// Explicit exit signals of a peer that may wait in mailboxes of processes that trap exits. With more, the session ends
    /// with `overload`; checked before each read. Default 1 024. Exit signals of links are bounded by
    /// [`max_links`](Self::max_links).
    pub max_untaken_exits: usize,
    /// Calls that a peer may cancel in a second. Default 100.
    pub max_cancels_per_second: u32,
    /// Calls that a peer may cancel at once. Default 1 000.
    pub max_cancels_burst: u32,
    /// Time that a stopping server gives its sessions to end by themselves, before it ends the others with
    /// `shutdown`; 0 for none. Default 30 s.
    pub drain_timeout: Duration,
}

impl Limits {
    /// The least and the most that `max_frame_len` may be.
    pub const FRAME_LEN_RANGE: std::ops::RangeInclusive<usize> = 1024..=16 * 1024 * 1024;
    /// The least that `window_len` may be.
    pub const MIN_WINDOW_LEN: usize = 64 * 1024;
    /// The least and the most that `heartbeat_interval` may be.
    pub const HEARTBEAT_RANGE: std::ops::RangeInclusive<Duration> =
        Duration::from_secs(1)..=Duration::from_secs(300);
}

impl Default for Limits {
    fn default() -> Self {
        const KIB: usize = 1024;
        const MIB: usize = 1024 * KIB;
        Self {
            dial_timeout: Duration::from_secs(10),
            tls_timeout: Duration::from_secs(5),
            login_timeout: Duration::from_secs(15),
            max_logins_before_drop: 128,
            login_drop_percent: 30,
            max_logins: 1024,
            max_logins_per_source: 16,
            max_frame_len: MIB,
            max_sessions: 10_000,
            max_sessions_per_service: 10_000,
            max_sessions_per_client: 300,
            window_len: 256 * KIB,
            max_window_len: 16 * MIB,
            max_windows_in_all: 256 * MIB,
            max_unsent_before_pause: 256 * KIB,
            max_unsent: 16 * MIB,
            max_held_in_all: 512 * MIB,
            max_retained: MIB,
            max_resumable: 10_000,
            max_resumable_per_client: 300,
            max_tombstones: 10_000,
            max_tombstones_per_client: 300,
            max_calls: 1024,
            max_links: 1024,
            max_handles: 1024,
            heartbeat_interval: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(60),
            min_accepted: 64 * KIB,
            mailbox_capacity: 1024,
            call_timeout: Duration::from_secs(60),
            close_timeout: Duration::from_secs(10),
            last_words_timeout: Duration::from_secs(2),
            max_reflections: 16 * 1024,
            max_untaken_exits: 1024,
            max_cancels_per_second: 100,
            max_cancels_burst: 1000,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// Returns the instant that is `time` after `now`, and at most 30 years after it.
///
/// `now + time` panics if the sum is beyond the clock. Every time that is configured or passed in, up to
/// [`Duration::MAX`], is added with this function instead.
pub fn after(now: Instant, time: Duration) -> Instant {
    const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    now + time.min(FOREVER)
}
