//! The state machine of a link: processes and sessions run the same one.

/// A link as one of its two sides knows it.
///
/// A side that takes the link back knows what was sent before the other side heard of it: everything that comes in
/// front of the acknowledgement. So no exit of a link that was taken back is ever taken for one of a link made since,
/// and both sides agree in the end, whatever crossed on the way.
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
    /// This side has sent an `Unlink` with this number: a `Link` or `Exit` that comes in is older.
    Unlinking(u64),
    /// And has linked again since: an `Exit` that comes in is one of the link before.
    Relinked(u64),
    /// And then the other side has unlinked.
    Unlinked(u64),
}

impl Link {
    /// Returns whether there is a link for this side.
    pub const fn is_active(&self) -> bool {
        matches!(self, Self::Active | Self::Relinked(_))
    }

    /// Returns whether there is nothing to remember.
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

    /// This side links. Returns whether to send a `Link`.
    pub const fn link(&mut self) -> bool {
        *self = match *self {
            Self::Active | Self::Relinked(_) => return false,
            Self::Absent => Self::Active,
            Self::Unlinking(number) | Self::Unlinked(number) => Self::Relinked(number),
        };
        true
    }

    /// This side unlinks. Returns whether to send an `Unlink` with this number.
    pub const fn unlink(&mut self, number: u64) -> bool {
        let was_active = self.is_active();
        if was_active {
            *self = Self::Unlinking(number);
        }
        was_active
    }

    /// A `Link` came in. Returns whether it made the link.
    pub const fn handle_link(&mut self) -> bool {
        *self = match *self {
            Self::Absent => Self::Active,
            Self::Unlinked(number) => Self::Relinked(number),
            Self::Active | Self::Relinked(_) | Self::Unlinking(_) => return false,
        };
        true
    }

    /// An `Unlink` came in, which must be acknowledged in any case. Returns whether it removed the link.
    pub const fn handle_unlink(&mut self) -> bool {
        *self = match *self {
            Self::Active => Self::Absent,
            Self::Relinked(number) => Self::Unlinked(number),
            Self::Absent | Self::Unlinking(_) | Self::Unlinked(_) => return false,
        };
        true
    }

    /// An `UnlinkAck` with this number came in.
    pub fn handle_unlink_ack(&mut self, number: u64) {
        if self.awaits() == Some(number) {
            *self = if self.is_active() { Self::Active } else { Self::Absent };
        }
    }

    /// An `Exit` came in over the link. Returns whether it is the end of the link that this side knows.
    pub const fn handle_exit(&mut self) -> bool {
        let is_current = matches!(self, Self::Active);
        if is_current {
            *self = Self::Absent;
        }
        is_current
    }
}
