//! The parameters that a server sets for a session.

use std::time::Duration;

use crate::limits::Limits;

/// The parameters of the session in the server's last message of the handshake, within the bounds of [`Limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionParameters {
    max_frame_len: u32,
    window_len: u32,
    heartbeat_ms: u32,
}

impl SessionParameters {
    /// The length on the wire, in bytes.
    pub(super) const LEN: usize = 12;

    /// Checks parameters: the longest frame and the credit window in bytes, the heartbeat in milliseconds.
    ///
    /// # Errors
    /// If one is outside its bounds, with its value.
    pub fn new(max_frame_len: u32, window_len: u32, heartbeat_ms: u32) -> Result<Self, ParametersError> {
        let in_range = |len: u32, range: &std::ops::RangeInclusive<usize>| {
            usize::try_from(len).is_ok_and(|len| range.contains(&len))
        };
        if !in_range(max_frame_len, &Limits::FRAME_LEN_RANGE) {
            return Err(ParametersError::FrameLen(max_frame_len));
        }
        if !in_range(window_len, &(Limits::MIN_WINDOW_LEN..=usize::MAX)) {
            return Err(ParametersError::WindowLen(window_len));
        }
        if !Limits::HEARTBEAT_RANGE.contains(&Duration::from_millis(heartbeat_ms.into())) {
            return Err(ParametersError::Heartbeat(heartbeat_ms));
        }
        Ok(Self { max_frame_len, window_len, heartbeat_ms })
    }

    /// Returns the parameters of a server with these limits. Rounds the heartbeat down to milliseconds.
    ///
    /// # Errors
    /// If one is outside its bounds.
    pub fn from_limits(limits: &Limits) -> Result<Self, ParametersError> {
        // A value that does not fit is out of bounds too, except for the window, which is cut to the largest value.
        let saturated = |value: u128| u32::try_from(value).unwrap_or(u32::MAX);
        Self::new(
            saturated(limits.max_frame_len as u128),
            saturated(limits.window_len as u128),
            saturated(limits.heartbeat_interval.as_millis()),
        )
    }

    /// Returns the longest frame that the server accepts, in bytes without its length.
    pub fn max_frame_len(self) -> u32 {
        self.max_frame_len
    }

    /// Returns the credit window, in bytes.
    pub fn window_len(self) -> u32 {
        self.window_len
    }

    /// Returns the heartbeat of both ends.
    pub fn heartbeat_interval(self) -> Duration {
        Duration::from_millis(self.heartbeat_ms.into())
    }

    /// Creates parameters without checks, to test a client.
    #[cfg(test)]
    pub(super) fn unchecked(max_frame_len: u32, window_len: u32, heartbeat_ms: u32) -> Self {
        Self { max_frame_len, window_len, heartbeat_ms }
    }

    pub(super) fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let fields = [self.max_frame_len, self.window_len, self.heartbeat_ms];
        for (to, field) in bytes.chunks_exact_mut(4).zip(fields) {
            to.copy_from_slice(&field.to_be_bytes());
        }
        bytes
    }

    pub(super) fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, ParametersError> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
        Self::new(
            u32::from_be_bytes([a, b, c, d]),
            u32::from_be_bytes([e, f, g, h]),
            u32::from_be_bytes([i, j, k, l]),
        )
    }
}

/// A parameter of a session that is outside of its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParametersError {
    /// The longest frame, in bytes.
    #[error("frames of at most {0} bytes, which is not between 1 KiB and 16 MiB")]
    FrameLen(u32),
    /// The credit window, in bytes.
    #[error("a window of {0} bytes, which is less than 64 KiB")]
    WindowLen(u32),
    /// The heartbeat, in milliseconds.
    #[error("a heartbeat of {0} ms, which is not between 1 and 300 s")]
    Heartbeat(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_bounds_hold_on_both_sides() {
        for (frame, window, heartbeat) in [(1024, 65_536, 1000), (16 << 20, u32::MAX, 300_000)] {
            assert!(SessionParameters::new(frame, window, heartbeat).is_ok());
        }
        assert_eq!(SessionParameters::new(1023, 65_536, 1000), Err(ParametersError::FrameLen(1023)));
        let over = (16 << 20) + 1;
        assert_eq!(SessionParameters::new(over, 65_536, 1000), Err(ParametersError::FrameLen(over)));
        assert_eq!(SessionParameters::new(1024, 65_535, 1000), Err(ParametersError::WindowLen(65_535)));
        assert_eq!(SessionParameters::new(1024, 65_536, 999), Err(ParametersError::Heartbeat(999)));
        assert_eq!(SessionParameters::new(1024, 65_536, 300_001), Err(ParametersError::Heartbeat(300_001)));
    }

    #[test]
    fn the_default_limits_can_be_said() {
        let parameters = SessionParameters::from_limits(&Limits::default()).unwrap();
        assert_eq!(parameters, SessionParameters::new(1 << 20, 256 << 10, 15_000).unwrap());
        assert_eq!(SessionParameters::parse(&parameters.encode()), Ok(parameters));
    }
}
