//! The state machine of a link, for processes and sessions.

/// A link, as one of its two sides knows it.
///
/// A side that has unlinked can tell which signals were sent before the other side heard of the unlink: those that
/// come before its acknowledgement. So an exit of a former link is never taken for an exit of the new one, and both
/// sides agree in the end, whichever signals cross.
///
/// ```text
///            link, Link in          unlink              Ack in
///   Absent ───────────────▶ Active ────────▶ Unlinking ────────▶ Absent
///      ▲                      │ ▲                │ link
///      └──────────────────────┘ │ Ack in         ▼        Unlink in
///        Unlink in, Exit in     └──────────── Relinked ◀───────────▶ Unlinked ──▶ Absent
///                                                       link, Link in       Ack in
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// There is no link.
    #[default]
    Absent,
    /// There is a link.
    Active,
    /// This side has sent an `Unlink` with this number. A `Link` or `Exit` that comes now is older.
    Unlinking(u64),
    /// This side has linked again since. An `Exit` that comes now belongs to the former link.
    Relinked(u64),
    /// The other side has then unlinked.
    Unlinked(u64),
}

impl Link {
    /// Returns `true` if this side has a link.
    pub const fn is_active(&self) -> bool {
        matches!(self, Self::Active | Self::Relinked(_))
    }

    /// Returns `true` if there is nothing to remember.
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Returns the number of the `Unlink` that the other side has not acknowledged.
    pub const fn awaits(&self) -> Option<u64> {
        match *self {
            Self::Absent | Self::Active => None,
            Self::Unlinking(number) | Self::Relinked(number) | Self::Unlinked(number) => Some(number),
        }
    }

    /// Links. Returns whether to send a `Link`.
    pub const fn link(&mut self) -> bool {
        *self = match *self {
            Self::Active | Self::Relinked(_) => return false,
            Self::Absent => Self::Active,
            Self::Unlinking(number) | Self::Unlinked(number) => Self::Relinked(number),
        };
        true
    }

    /// Unlinks. Returns whether to send an `Unlink` with this number.
    pub const fn unlink(&mut self, number: u64) -> bool {
        let was_active = self.is_active();
        if was_active {
            *self = Self::Unlinking(number);
        }
        was_active
    }

    /// Handles a `Link`. Returns whether it made the link.
    pub const fn handle_link(&mut self) -> bool {
        *self = match *self {
            Self::Absent => Self::Active,
            Self::Unlinked(number) => Self::Relinked(number),
            Self::Active | Self::Relinked(_) | Self::Unlinking(_) => return false,
        };
        true
    }

    /// Handles an `Unlink`, which must be acknowledged in any case. Returns whether it removed the link.
    pub const fn handle_unlink(&mut self) -> bool {
        *self = match *self {
            Self::Active => Self::Absent,
            Self::Relinked(number) => Self::Unlinked(number),
            Self::Absent | Self::Unlinking(_) | Self::Unlinked(_) => return false,
        };
        true
    }

    /// Handles an `UnlinkAck` with this number.
    pub fn handle_unlink_ack(&mut self, number: u64) {
        if self.awaits() == Some(number) {
            *self = if self.is_active() { Self::Active } else { Self::Absent };
        }
    }

    /// Handles an `Exit` over the link. Returns whether it ends the link that this side knows.
    pub const fn handle_exit(&mut self) -> bool {
        let is_current = matches!(self, Self::Active);
        if is_current {
            *self = Self::Absent;
        }
        is_current
    }
}
