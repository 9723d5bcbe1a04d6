//! The operations that the far end may use on a process that was handed to it.

/// The operations that a process handed to the far end of a session permits.
///
/// By default the far end may send, call and monitor.
///
/// ```
/// use lib_chan::Rights;
///
/// let rights = Rights { link: true, ..Rights::default() };
/// assert!(rights.send && !rights.exit);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Messages and calls. Default yes.
    pub send: bool,
    /// Monitors. Default yes.
    pub monitor: bool,
    /// Links. Default no.
    pub link: bool,
    /// Exit signals. Default no.
    pub exit: bool,
    /// Exit signals with the reason `kill`, which cannot be trapped. Default no.
    pub kill: bool,
}

impl Rights {
    /// No right at all: the process is only named.
    pub const NONE: Self = Self { send: false, monitor: false, link: false, exit: false, kill: false };
    /// The rights to the owner of a session.
    pub(crate) const OWNER: Self = Self { send: true, monitor: true, link: true, exit: true, kill: false };
    /// The right to monitor: the right that a [`Pid`](crate::Pid) in a message gives.
    pub const MONITOR: Self = Self { monitor: true, ..Self::NONE };

    /// Returns the rights as they are on the wire.
    pub(crate) const fn bits(self) -> u8 {
        self.send as u8
            | (self.monitor as u8) << 1
            | (self.link as u8) << 2
            | (self.exit as u8) << 3
            | (self.kill as u8) << 4
    }

    /// Reads the rights from the wire; `None` for an unknown right.
    pub(crate) const fn from_bits(bits: u8) -> Option<Self> {
        if bits >= 1 << 5 {
            return None;
        }
        Some(Self {
            send: bits & 1 != 0,
            monitor: bits & 2 != 0,
            link: bits & 4 != 0,
            exit: bits & 8 != 0,
            kill: bits & 16 != 0,
        })
    }

    /// Returns the rights of both.
    pub(crate) const fn with(self, other: Self) -> Self {
        Self {
            send: self.send || other.send,
            monitor: self.monitor || other.monitor,
            link: self.link || other.link,
            exit: self.exit || other.exit,
            kill: self.kill || other.kill,
        }
    }
}

impl Default for Rights {
    fn default() -> Self {
        Self { send: true, ..Self::MONITOR }
    }
}
