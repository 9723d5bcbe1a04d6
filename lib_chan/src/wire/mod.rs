//! Reads and writes frames, the units of a session (`PROTOCOL.md`, section 5).
//!
//! A frame is a big-endian `u32` length of the rest, a kind, fields as varints in their shortest form, and a payload or
//! text up to its end. Kinds below [`FIRST_UNORDERED`] are ordered and counted; the others are not.
//!
//! Longer than other files, because the layout of each frame is both written and parsed here, and the two must agree.

mod handles;
mod varint;

pub use self::handles::{HandleEntry, HandleTable, MAX_HANDLES, max_table_len};
use crate::{
    ExitReason,
    auth::{ResumeClaim, SessionId},
    secret::Secret,
};

/// Bytes of the length in front of each frame.
pub const LEN_LEN: usize = 4;
/// The most bytes that a frame takes beside its payload: length, kind, and the fields of a `Call`.
pub const MAX_OVERHEAD: usize = LEN_LEN + 1 + 3 * varint::MAX_LEN;
/// Kinds from here on are not numbered.
pub const FIRST_UNORDERED: u8 = 0x40;
/// Bytes of the secret of a session.
const SECRET_LEN: usize = 32;
/// Bytes of the hash of an interface.
const HASH_LEN: usize = 32;
/// Bytes of the proof in a `Resume`.
const PROOF_LEN: usize = 32;
/// The longest `Resume`, without its length: kind, id, three numbers, proof.
pub const MAX_RESUME_LEN: usize = 1 + 16 + 3 * varint::MAX_LEN + PROOF_LEN;
/// The kind of a `Resume`, which tells a later connection of a session from a first one.
pub const RESUME: u8 = kind::RESUME;
/// The most bytes of the text of a `Refuse`, except for [`RefuseCode::Interface`].
pub const MAX_TEXT_LEN: usize = ExitReason::MAX_TEXT_LEN;
/// The most bytes of an interface in a `Refuse`.
pub const MAX_INTERFACE_LEN: usize = 64 * 1024;

/// One message on the wire. Payloads and texts are borrowed from the bytes they came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The client's first frame: the codec, its bounds, and the arguments for the service.
    Start {
        /// The codec of every payload of the session ([`Codec`](crate::payload::Codec)).
        codec: u8,
        /// The bounds that the client allows the server.
        terms: Terms,
        /// The longest frame that the client accepts, in bytes without its length.
        max_frame_len: u64,
        /// The first credit of each process of the client, in bytes.
        window_len: u64,
        /// The time that the client asks the session to survive without a connection, in milliseconds; 0 for no
        /// resume.
        resume: u64,
        /// The protocol of the client; `None` if it has none.
        interface: Option<Box<InterfaceHash>>,
        /// The arguments for the service, encoded.
        args: &'a [u8],
    },
    /// The server's answer: the service runs.
    Started {
        /// The bounds that the server allows the client.
        terms: Terms,
        /// The data with which the client can resume the session, if it may.
        resume: Option<Box<Granted>>,
    },
    /// A message without an answer.
    Cast {
        /// The process it is for.
        to: u64,
        /// The message.
        payload: &'a [u8],
    },
    /// A message with an answer.
    Call {
        /// The process it is for.
        to: u64,
        /// Names the call; larger than the last.
        call: u64,
        /// Milliseconds until the caller stops waiting.
        left: u64,
        /// The message.
        payload: &'a [u8],
    },
    /// The caller stopped waiting.
    Cancel {
        /// The call.
        call: u64,
    },
    /// The answer to a call.
    Reply {
        /// The call.
        call: u64,
        /// The answer.
        payload: &'a [u8],
    },
    /// The reason why a call has no answer. Call 0 is the `Start`.
    Refuse {
        /// The call.
        call: u64,
        /// The kind of the refusal.
        code: RefuseCode,
        /// A public text.
        text: &'a str,
    },
    /// An exit signal.
    Exit {
        /// The sender's process.
        from: u64,
        /// The receiver's process.
        to: u64,
        /// The number of the last message that the process took, if a link caused the exit. `None` if it was sent
        /// explicitly.
        taken: Option<u64>,
        /// The reason.
        reason: ExitReason,
    },
    /// The owner at the sender ended, or closed the session.
    Ended {
        /// The owner has taken and will take no message with a larger number.
        taken: u64,
        /// The reason.
        reason: ExitReason,
    },
    /// A process links to one of the receiver's.
    Link {
        /// Names the sender's process for this link alone.
        from: u64,
        /// The receiver's process.
        to: u64,
    },
    /// Ends a link at the sender's side.
    Unlink {
        /// The sender's process.
        from: u64,
        /// The receiver's process.
        to: u64,
        /// The number of the ack that answers.
        unlink: u64,
    },
    /// Answers an `Unlink`, before any other signal between the two.
    UnlinkAck {
        /// The sender's process.
        from: u64,
        /// The receiver's process.
        to: u64,
        /// The number of the `Unlink`.
        unlink: u64,
    },
    /// A monitor is set on one of the receiver's processes.
    Monitor {
        /// Names the monitor.
        monitor: u64,
        /// The receiver's process.
        to: u64,
    },
    /// A monitor is taken back.
    Demonitor {
        /// The monitor.
        monitor: u64,
    },
    /// The one ending of a monitor.
    Down {
        /// The monitor.
        monitor: u64,
        /// The number of the last message that the process took.
        taken: u64,
        /// The reason.
        reason: ExitReason,
    },
    /// The sender will end the session soon. Ends nothing yet.
    GoAway,
    /// The next bytes of a long answer. The `Reply` to the same call brings the last ones.
    Part {
        /// The call.
        call: u64,
        /// Bytes of the whole answer in the first part; 0 in the others.
        total: u64,
        /// The bytes.
        payload: &'a [u8],
    },
    /// The next bytes of a long message. The `Cast` or `Call` to the same process brings the last ones. An empty part takes the
    /// message back.
    PartTo {
        /// The process the message is for.
        to: u64,
        /// Bytes of the whole payload in the first part; 0 in the others.
        total: u64,
        /// The bytes.
        payload: &'a [u8],
    },
    /// A message with a table of handles between its fields and its payload. A message without handles is a frame of
    /// its plain kind.
    With {
        /// The kind of the message and its fields.
        message: MessageHead,
        /// The handles, which the payload names by their places in this table.
        handles: HandleTable<'a>,
        /// The payload.
        payload: &'a [u8],
    },
    /// The sender keeps nothing of a process that the receiver has handed out.
    Release {
        /// The receiver's process.
        id: u64,
        /// The number of handles with this id that the sender has received since its last `Release` of the id.
        count: u64,
    },
    /// All the credit granted to a process of the sender's so far.
    Credit {
        /// The sender's process.
        id: u64,
        /// Bytes.
        total: u64,
    },
    /// The number of the last ordered frame received.
    Ack {
        /// The number.
        number: u64,
    },
    /// Asks for a `Pong` (and an `Ack`).
    Ping {
        /// Comes back in the `Pong`.
        token: u64,
    },
    /// Answers a `Ping`.
    Pong {
        /// The token of the `Ping`.
        token: u64,
    },
    /// The client's first frame on a later connection: takes up a session again.
    Resume {
        /// The session, and how far the client is.
        claim: ResumeClaim,
        /// Shows that the client has the secret of the session, on this connection.
        proof: &'a [u8; PROOF_LEN],
    },
    /// The server's answer: the session continues on this connection.
    Resumed {
        /// The number of the last ordered frame that the server has received.
        received: u64,
        /// The number of the last ordered frame that the server has numbered.
        sent: u64,
    },
    /// The server's other answer: the session is over.
    Lost {
        /// The record that the server still has of it.
        tombstone: Option<Tombstone>,
    },
}

/// A message that can carry handles, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageHead {
    /// See [`Frame::Cast`].
    Cast {
        /// The process it is for.
        to: u64,
    },
    /// See [`Frame::Call`].
    Call {
        /// The process it is for.
        to: u64,
        /// Names the call; larger than the last.
        call: u64,
        /// Milliseconds until the caller stops waiting.
        left: u64,
    },
    /// See [`Frame::Reply`].
    Reply {
        /// The call.
        call: u64,
    },
}

/// The protocol of a client, as it states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceHash {
    /// The number of its methods; 0 asks for the interface of the service instead of starting it.
    pub methods: u64,
    /// The SHA-256 of the canonical text of these methods.
    pub hash: [u8; HASH_LEN],
}

impl InterfaceHash {
    /// Asks for the interface of the service.
    pub const ASK: Self = Self { methods: 0, hash: [0; HASH_LEN] };
}

/// The server's consent to resume a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The time that the session survives without a connection, in milliseconds. Never 0.
    pub window: u64,
    /// Names the session.
    pub id: SessionId,
    /// Shared by the two ends of this session alone.
    pub secret: Secret<SECRET_LEN>,
}

/// The record that an end keeps of a session that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The number of the last ordered frame received.
    pub received: u64,
    /// No process has taken or will take a message with a larger number.
    pub taken: u64,
    /// The reason of the end.
    pub reason: ExitReason,
}

/// The bounds that one end allows the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Calls in flight to it.
    pub max_calls: u64,
    /// Links and monitors that the other end may have set.
    pub max_links: u64,
    /// Processes that the other end may have handed out.
    pub max_handles: u64,
}

/// The reason why a call got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RefuseCode {
    /// Refused by the application, or never taken. Not executed.
    Refused = 1,
    /// It does not decode. Not executed.
    Codec = 2,
    /// Longer than a frame may be. Not executed.
    TooLong = 3,
    /// No room for it. Not executed.
    Overload = 4,
    /// The process dropped it. Perhaps executed.
    NoAnswer = 5,
    /// The answer is longer than a frame may be. Executed.
    AnswerTooLong = 6,
    /// The answer does not encode. Executed.
    AnswerCodec = 7,
    /// The client of a `Start` has another protocol than the service. The text is the service's interface. Not executed.
    Interface = 8,
}

impl RefuseCode {
    fn from_wire(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Refused,
            2 => Self::Codec,
            3 => Self::TooLong,
            4 => Self::Overload,
            5 => Self::NoAnswer,
            6 => Self::AnswerTooLong,
            7 => Self::AnswerCodec,
            8 => Self::Interface,
            _ => return None,
        })
    }
}

/// The reason why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Longer than it may be.
    #[error("a frame of {len} bytes, where {max} is the limit")]
    TooLong {
        /// Its stated length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A kind that this version does not know.
    #[error("unknown frame kind {0:#04x}")]
    UnknownKind(u8),
    /// The frame ends within a field.
    #[error("a frame ends within a field")]
    Truncated,
    /// Bytes after the last field of a frame that has no payload.
    #[error("bytes after the end of a frame")]
    Trailing,
    /// A number that does not fit, or is not in its shortest form.
    #[error("a number that is too large or not in its shortest form")]
    Number,
    /// An unknown reason or refusal code.
    #[error("unknown code {0}")]
    Code(u8),
    /// A text that is too long, not UTF-8, or where none belongs.
    #[error("a text that is too long, not UTF-8, or out of place")]
    Text,
}

mod kind {
    pub(super) const START: u8 = 0x01;
    pub(super) const STARTED: u8 = 0x02;
    pub(super) const CAST: u8 = 0x03;
    pub(super) const CALL: u8 = 0x04;
    pub(super) const CANCEL: u8 = 0x05;
    pub(super) const REPLY: u8 = 0x06;
    pub(super) const REFUSE: u8 = 0x07;
    pub(super) const EXIT: u8 = 0x08;
    pub(super) const ENDED: u8 = 0x09;
    pub(super) const LINK: u8 = 0x0a;
    pub(super) const UNLINK: u8 = 0x0b;
    pub(super) const UNLINK_ACK: u8 = 0x0c;
    pub(super) const MONITOR: u8 = 0x0d;
    pub(super) const DEMONITOR: u8 = 0x0e;
    pub(super) const DOWN: u8 = 0x0f;
    pub(super) const GO_AWAY: u8 = 0x10;
    pub(super) const PART: u8 = 0x11;
    pub(super) const RELEASE: u8 = 0x12;
    pub(super) const CAST_WITH: u8 = 0x13;
    pub(super) const CALL_WITH: u8 = 0x14;
    pub(super) const REPLY_WITH: u8 = 0x15;
    pub(super) const PART_TO: u8 = 0x16;
    pub(super) const CREDIT: u8 = 0x40;
    pub(super) const ACK: u8 = 0x41;
    pub(super) const PING: u8 = 0x42;
    pub(super) const PONG: u8 = 0x43;
    pub(super) const RESUME: u8 = 0x44;
    pub(super) const RESUMED: u8 = 0x45;
    pub(super) const LOST: u8 = 0x46;
}

/// Returns the length of the frame at the front of `bytes`, without its four bytes of length, or `None` if these are
/// incomplete.
///
/// # Errors
/// Returns [`WireError::TooLong`] over `max`, and [`WireError::Truncated`] for a frame without a kind: both before
/// anything of the frame is kept.
pub fn frame_len(bytes: &[u8], max: usize) -> Result<Option<usize>, WireError> {
    let Some(&head) = bytes.first_chunk::<LEN_LEN>() else { return Ok(None) };
    match u32::from_be_bytes(head) as usize {
        0 => Err(WireError::Truncated),
        len if len > max => Err(WireError::TooLong { len, max }),
        len => Ok(Some(len)),
    }
}

impl<'a> Frame<'a> {
    /// Whether the frame is part of the ordered, counted stream.
    #[inline]
    pub const fn is_ordered(&self) -> bool {
        self.kind() < FIRST_UNORDERED
    }

    /// Whether the frame is a signal, which must not go between the parts of an answer: a process that has got a signal gets
    /// no answer that was sent before it.
    #[inline]
    pub const fn is_signal(&self) -> bool {
        matches!(
            self,
            Frame::Exit { .. }
                | Frame::Ended { .. }
                | Frame::Link { .. }
                | Frame::Unlink { .. }
                | Frame::UnlinkAck { .. }
                | Frame::Monitor { .. }
                | Frame::Demonitor { .. }
                | Frame::Down { .. }
        )
    }

    /// The frame's kind on the wire.
    #[inline]
    pub const fn kind(&self) -> u8 {
        match self {
            Frame::Start { .. } => kind::START,
            Frame::Started { .. } => kind::STARTED,
            Frame::Cast { .. } => kind::CAST,
            Frame::Call { .. } => kind::CALL,
            Frame::Cancel { .. } => kind::CANCEL,
            Frame::Reply { .. } => kind::REPLY,
            Frame::Refuse { .. } => kind::REFUSE,
            Frame::Exit { .. } => kind::EXIT,
            Frame::Ended { .. } => kind::ENDED,
            Frame::Link { .. } => kind::LINK,
            Frame::Unlink { .. } => kind::UNLINK,
            Frame::UnlinkAck { .. } => kind::UNLINK_ACK,
            Frame::Monitor { .. } => kind::MONITOR,
            Frame::Demonitor { .. } => kind::DEMONITOR,
            Frame::Down { .. } => kind::DOWN,
            Frame::GoAway => kind::GO_AWAY,
            Frame::Part { .. } => kind::PART,
            Frame::PartTo { .. } => kind::PART_TO,
            Frame::With { message: MessageHead::Cast { .. }, .. } => kind::CAST_WITH,
            Frame::With { message: MessageHead::Call { .. }, .. } => kind::CALL_WITH,
            Frame::With { message: MessageHead::Reply { .. }, .. } => kind::REPLY_WITH,
            Frame::Release { .. } => kind::RELEASE,
            Frame::Credit { .. } => kind::CREDIT,
            Frame::Ack { .. } => kind::ACK,
            Frame::Ping { .. } => kind::PING,
            Frame::Pong { .. } => kind::PONG,
            Frame::Resume { .. } => kind::RESUME,
            Frame::Resumed { .. } => kind::RESUMED,
            Frame::Lost { .. } => kind::LOST,
        }
    }

    /// Appends the frame without its payload, and returns the payload, which follows on the wire.
    #[inline(always)]
    pub fn put_head(&self, out: &mut Vec<u8>) -> &'a [u8] {
        let start = out.len();
        // The length is known at the end.
        out.extend_from_slice(&[0, 0, 0, 0, self.kind()]);
        let payload = self.put_fields(out);
        let len = (out.len() - start - LEN_LEN + payload.len()) as u32;
        if let Some(head) = out.get_mut(start..start + LEN_LEN) {
            head.copy_from_slice(&len.to_be_bytes());
        }
        payload
    }

    /// Appends the whole frame. Where the kind is known, nothing is left of the others.
    #[inline(always)]
    pub fn put(&self, out: &mut Vec<u8>) {
        let payload = self.put_head(out);
        out.extend_from_slice(payload);
    }

    #[inline(always)]
    fn put_fields(&self, out: &mut Vec<u8>) -> &'a [u8] {
        let mut put = |numbers: &[u64]| numbers.iter().for_each(|&number| varint::put(number, out));
        match *self {
            Frame::Start { codec, terms, max_frame_len, window_len, resume, ref interface, args } => {
                put(&[u64::from(codec), terms.max_calls, terms.max_links, terms.max_handles]);
                put(&[max_frame_len, window_len, resume]);
                match interface {
                    None => put(&[0, 0]),
                    Some(interface) => {
                        put(&[interface.methods, HASH_LEN as u64]);
                        out.extend_from_slice(&interface.hash);
                    }
                }
                return args;
            }
            Frame::Started { terms, ref resume } => {
                put(&[terms.max_calls, terms.max_links, terms.max_handles]);
                match resume {
                    None => put(&[0]),
                    Some(granted) => {
                        put(&[granted.window]);
                        out.extend_from_slice(granted.id.as_bytes());
                        out.extend_from_slice(granted.secret.expose());
                    }
                }
            }
            Frame::Cast { to, payload } => {
                put(&[to]);
                return payload;
            }
            Frame::Call { to, call, left, payload } => {
                put(&[to, call, left]);
                return payload;
            }
            Frame::Cancel { call } => put(&[call]),
            Frame::Reply { call, payload } => {
                put(&[call]);
                return payload;
            }
            Frame::Refuse { call, code, text } => {
                put(&[call, u64::from(code as u8)]);
                return text.as_bytes();
            }
            Frame::Exit { from, to, taken, ref reason } => {
                put(&[from, to, u64::from(taken.is_some()), taken.unwrap_or(0), u64::from(reason.code())]);
                out.extend_from_slice(reason.text().as_bytes());
            }
            Frame::Ended { taken, ref reason } => {
                put(&[taken, u64::from(reason.code())]);
                out.extend_from_slice(reason.text().as_bytes());
            }
            Frame::Link { from, to } => put(&[from, to]),
            Frame::Unlink { from, to, unlink } | Frame::UnlinkAck { from, to, unlink } => {
                put(&[from, to, unlink])
            }
            Frame::Monitor { monitor, to } => put(&[monitor, to]),
            Frame::Demonitor { monitor } => put(&[monitor]),
            Frame::Down { monitor, taken, ref reason } => {
                put(&[monitor, taken, u64::from(reason.code())]);
                out.extend_from_slice(reason.text().as_bytes());
            }
            Frame::GoAway => {}
            Frame::Part { call, total, payload } => {
                put(&[call, total]);
                return payload;
            }
            Frame::PartTo { to, total, payload } => {
                put(&[to, total]);
                return payload;
            }
            Frame::With { message, handles, payload } => {
                match message {
                    MessageHead::Cast { to } => put(&[to]),
                    MessageHead::Call { to, call, left } => put(&[to, call, left]),
                    MessageHead::Reply { call } => put(&[call]),
                }
                handles.put(out);
                return payload;
            }
            Frame::Release { id, count } => put(&[id, count]),
            Frame::Credit { id, total } => put(&[id, total]),
            Frame::Ack { number } => put(&[number]),
            Frame::Ping { token } | Frame::Pong { token } => put(&[token]),
            Frame::Resume { claim: ResumeClaim { id, epoch, received, sent }, proof } => {
                out.extend_from_slice(id.as_bytes());
                [epoch, received, sent].into_iter().for_each(|number| varint::put(number, out));
                out.extend_from_slice(proof);
            }
            Frame::Resumed { received, sent } => put(&[received, sent]),
            Frame::Lost { tombstone: None } => put(&[0]),
            Frame::Lost { tombstone: Some(Tombstone { received, taken, ref reason }) } => {
                put(&[1, received, taken, u64::from(reason.code())]);
                out.extend_from_slice(reason.text().as_bytes());
            }
        }
        &[]
    }

    /// Reads a frame from `body`: the kind and everything after it, without the length.
    ///
    /// # Errors
    /// Returns a [`WireError`] if `body` is not exactly one frame of a known kind.
    pub fn parse(body: &'a [u8]) -> Result<Self, WireError> {
        let (&kind, rest) = body.split_first().ok_or(WireError::Truncated)?;
        let mut fields = Fields(rest);
        let frame = match kind {
            kind::START => Frame::Start {
                codec: fields.byte()?,
                terms: fields.terms()?,
                max_frame_len: fields.number()?,
                window_len: fields.number()?,
                resume: fields.number()?,
                interface: fields.interface()?,
                args: fields.rest(),
            },
            kind::STARTED => Frame::Started { terms: fields.terms()?, resume: fields.granted()? },
            kind::CAST => Frame::Cast { to: fields.number()?, payload: fields.rest() },
            kind::CALL => Frame::Call {
                to: fields.number()?,
                call: fields.number()?,
                left: fields.number()?,
                payload: fields.rest(),
            },
            kind::CANCEL => Frame::Cancel { call: fields.number()? },
            kind::REPLY => Frame::Reply { call: fields.number()?, payload: fields.rest() },
            kind::REFUSE => {
                let (call, code) = (fields.number()?, fields.refuse_code()?);
                let text = match (code, call) {
                    (RefuseCode::Interface, 0) => fields.text_within(MAX_INTERFACE_LEN)?,
                    (RefuseCode::Interface, _) => return Err(WireError::Code(code as u8)),
                    _ => fields.text()?,
                };
                Frame::Refuse { call, code, text }
            }
            kind::EXIT => Frame::Exit {
                from: fields.number()?,
                to: fields.number()?,
                taken: fields.taken()?,
                reason: fields.reason()?,
            },
            kind::ENDED => Frame::Ended { taken: fields.number()?, reason: fields.reason()? },
            kind::LINK => Frame::Link { from: fields.number()?, to: fields.number()? },
            kind::UNLINK => {
                Frame::Unlink { from: fields.number()?, to: fields.number()?, unlink: fields.number()? }
            }
            kind::UNLINK_ACK => {
                Frame::UnlinkAck { from: fields.number()?, to: fields.number()?, unlink: fields.number()? }
            }
            kind::MONITOR => Frame::Monitor { monitor: fields.number()?, to: fields.number()? },
            kind::DEMONITOR => Frame::Demonitor { monitor: fields.number()? },
            kind::DOWN => {
                Frame::Down { monitor: fields.number()?, taken: fields.number()?, reason: fields.reason()? }
            }
            kind::GO_AWAY => Frame::GoAway,
            kind::PART => {
                Frame::Part { call: fields.number()?, total: fields.number()?, payload: fields.rest() }
            }
            kind::PART_TO => {
                Frame::PartTo { to: fields.number()?, total: fields.number()?, payload: fields.rest() }
            }
            kind::CAST_WITH => fields.message(|fields| Ok(MessageHead::Cast { to: fields.number()? }))?,
            kind::CALL_WITH => fields.message(|fields| {
                Ok(MessageHead::Call { to: fields.number()?, call: fields.number()?, left: fields.number()? })
            })?,
            kind::REPLY_WITH => fields.message(|fields| Ok(MessageHead::Reply { call: fields.number()? }))?,
            kind::RELEASE => Frame::Release { id: fields.number()?, count: fields.number()? },
            kind::CREDIT => Frame::Credit { id: fields.number()?, total: fields.number()? },
            kind::ACK => Frame::Ack { number: fields.number()? },
            kind::PING => Frame::Ping { token: fields.number()? },
            kind::PONG => Frame::Pong { token: fields.number()? },
            kind::RESUME => Frame::Resume { claim: fields.claim()?, proof: fields.array()? },
            kind::RESUMED => Frame::Resumed { received: fields.number()?, sent: fields.number()? },
            kind::LOST => Frame::Lost { tombstone: fields.tombstone()? },
            unknown => return Err(WireError::UnknownKind(unknown)),
        };
        if fields.0.is_empty() { Ok(frame) } else { Err(WireError::Trailing) }
    }
}

/// The rest of a frame while its fields are read from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Result<u64, WireError> {
        varint::take(&mut self.0)
    }

    fn byte(&mut self) -> Result<u8, WireError> {
        self.number()?.try_into().map_err(|_| WireError::Number)
    }

    fn terms(&mut self) -> Result<Terms, WireError> {
        Ok(Terms { max_calls: self.number()?, max_links: self.number()?, max_handles: self.number()? })
    }

    fn message(
        &mut self,
        head: impl FnOnce(&mut Self) -> Result<MessageHead, WireError>,
    ) -> Result<Frame<'a>, WireError> {
        let message = head(self)?;
        let handles = HandleTable::take(&mut self.0)?;
        Ok(Frame::With { message, handles, payload: self.rest() })
    }

    fn taken(&mut self) -> Result<Option<u64>, WireError> {
        match (self.number()?, self.number()?) {
            (1, taken) => Ok(Some(taken)),
            (0, 0) => Ok(None),
            _ => Err(WireError::Number),
        }
    }

    fn granted(&mut self) -> Result<Option<Box<Granted>>, WireError> {
        let window = self.number()?;
        if window == 0 {
            return Ok(None);
        }
        let id = SessionId::new(*self.array()?);
        Ok(Some(Box::new(Granted { window, id, secret: Secret::new(*self.array()?) })))
    }

    fn interface(&mut self) -> Result<Option<Box<InterfaceHash>>, WireError> {
        match (self.number()?, self.number()?) {
            (0, 0) => Ok(None),
            (methods, len) if len == HASH_LEN as u64 => {
                Ok(Some(Box::new(InterfaceHash { methods, hash: *self.array()? })))
            }
            _ => Err(WireError::Number),
        }
    }

    fn claim(&mut self) -> Result<ResumeClaim, WireError> {
        let id = SessionId::new(*self.array()?);
        Ok(ResumeClaim { id, epoch: self.number()?, received: self.number()?, sent: self.number()? })
    }

    fn tombstone(&mut self) -> Result<Option<Tombstone>, WireError> {
        match self.number()? {
            0 => Ok(None),
            1 => {
                let (received, taken) = (self.number()?, self.number()?);
                Ok(Some(Tombstone { received, taken, reason: self.reason()? }))
            }
            _ => Err(WireError::Number),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], WireError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn refuse_code(&mut self) -> Result<RefuseCode, WireError> {
        let code = self.byte()?;
        RefuseCode::from_wire(code).ok_or(WireError::Code(code))
    }

    fn reason(&mut self) -> Result<ExitReason, WireError> {
        let code = self.byte()?;
        let text = self.text()?;
        ExitReason::from_wire(code, text).ok_or(if code > 11 {
            WireError::Code(code)
        } else {
            WireError::Text
        })
    }

    fn text(&mut self) -> Result<&'a str, WireError> {
        self.text_within(MAX_TEXT_LEN)
    }

    fn text_within(&mut self, max: usize) -> Result<&'a str, WireError> {
        let bytes = self.rest();
        if bytes.len() > max {
            return Err(WireError::Text);
        }
        std::str::from_utf8(bytes).map_err(|_| WireError::Text)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests;
