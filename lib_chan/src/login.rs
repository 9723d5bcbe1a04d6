//! Runs the login over a connection: drives the two state machines of [`handshake`](crate::handshake).
//!
//! Reads nothing beyond the last message, so that the stream can be passed on to a session. Has no timeout: wrap the
//! calls in [`tokio::time::timeout_at`] with an absolute deadline
//! ([`Limits::login_timeout`](crate::Limits::login_timeout)).

use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::sleep;

use crate::Limits;
use crate::auth::{Account, DerivedKeys, Directory, Exporter, RefusalCause, StretchError};
use crate::handshake::client::{
    ClientHandshakeError, ExpectAccept, ExpectKeys, ExpectPasswordChallenge, start_with_key,
    start_with_password,
};
use crate::handshake::server::{ExpectHello, ExpectProof, Refusal, Verdict};
use crate::handshake::{Authenticated, Misbehaviour, SessionParameters, Step, checked_len};
use crate::runtime::blocking;
use crate::secret::{Password, PrivateKey, Target};
use crate::session::{OpenRequest, early_start};

/// Runs the server's side of a login. A refusal has been sent when this returns. Close the connection unless this
/// succeeded.
///
/// `allows_source` says whether an account may be used from the source of the connection. `refused` hears of a refusal
/// before the client does, and returns how long to hold it back: a client that tries one password after the other waits
/// with it. Never runs Argon2. A dropped future leaves the connection unusable.
///
/// # Errors
/// The reason why the client was not logged in: refused, misbehaved, or disconnected.
pub async fn login_server<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    exporter: Exporter,
    directory: &Directory,
    parameters: SessionParameters,
    allows_source: impl FnOnce(&Account) -> bool,
    refused: impl FnOnce(&Refusal) -> Duration,
) -> Result<Authenticated, ServerLoginError> {
    // Boxed, so that the task of an idle session does not keep the room of its login.
    Box::pin(let_in(stream, exporter, directory, parameters, allows_source, refused)).await
}

async fn let_in<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    exporter: Exporter,
    directory: &Directory,
    parameters: SessionParameters,
    allows_source: impl FnOnce(&Account) -> bool,
    refused: impl FnOnce(&Refusal) -> Duration,
) -> Result<Authenticated, ServerLoginError> {
    let nonce = random_nonce().ok_or(ServerLoginError::NoRandomness)?;
    let mut buffer = [0; ExpectHello::MAX_LEN];

    let mut prefix = [0; 2];
    if stream.read(&mut prefix[..1]).await? == 0 {
        return Err(ServerLoginError::SentNothing);
    }
    stream.read_exact(&mut prefix[1..]).await?;
    let hello = read_body(stream, prefix, ExpectHello::MAX_LEN, &mut buffer).await?;
    let Step { next, send } = ExpectHello::new(directory, exporter, parameters, nonce).handle(hello)?;
    write(stream, &send).await?;

    let proof = read_message(stream, ExpectProof::MAX_LEN, &mut buffer).await?;
    let Step { next, send } = next.handle(proof, allows_source)?;
    if let Verdict::Refused(refusal) = &next {
        let delay = refused(refusal);
        if !delay.is_zero() {
            sleep(delay).await;
        }
    }
    write(stream, &send).await?;
    match next {
        Verdict::Accepted(authenticated) => Ok(authenticated),
        Verdict::Refused(refusal) => Err(ServerLoginError::Refused(refusal)),
    }
}

/// The reason why a login failed, for the log: the client was told nothing, or only that it was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerLoginError {
    /// The login was refused; the cause is inside.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The client broke the protocol, and got no answer.
    #[error("the client misbehaved: {0}")]
    ClientMisbehaved(#[from] Misbehaviour),
    /// The client closed the connection without having sent a byte.
    #[error("the client sent nothing")]
    SentNothing,
    /// The connection was lost during the login.
    #[error("the connection was lost: {0}")]
    Io(#[from] io::Error),
    /// The system has no random bytes to give.
    #[error("the system gave no random bytes")]
    NoRandomness,
}

impl ServerLoginError {
    /// The cause of a refusal, if it was one.
    pub fn refusal_cause(&self) -> Option<RefusalCause> {
        match self {
            Self::Refused(refusal) => Some(refusal.cause),
            _ => None,
        }
    }
}

/// The secret with which a client proves itself.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Credential<'c> {
    /// A password. The keys derived from it are kept inside this value and its clones.
    Password(&'c Password),
    /// A private key.
    Key(&'c PrivateKey),
}

/// A login of a client, prepared before it connects.
///
/// A program stretches one password at a time, which takes long. A client that connected first and then waited would
/// exceed the server's timeout. So a login that has to stretch waits for its turn in [`prepare`](Self::prepare); open
/// the connection after that has returned.
#[must_use]
pub struct ClientLogin<'c> {
    target: Target,
    proof: Proof<'c>,
    on_stretch: Option<&'c (dyn Fn() + Sync)>,
    /// The first frames of the session.
    start: Option<Vec<u8>>,
}

impl fmt::Debug for ClientLogin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientLogin").field("target", &self.target).finish_non_exhaustive()
    }
}

enum Proof<'c> {
    Password(&'c Password, Option<SemaphorePermit<'static>>),
    Key(&'c PrivateKey),
}

/// The permit to stretch a password: one at a time in a program, to bound memory.
static STRETCHING: Semaphore = Semaphore::const_new(1);

impl<'c> ClientLogin<'c> {
    /// Waits until this login may stretch its password, first come first served. Returns at once if nothing has to be
    /// stretched: with a private key, or a password whose key for this target is known. The turn ends when the key is
    /// derived or this value is dropped.
    ///
    /// Dropping the future gives up the place in the queue.
    pub async fn prepare(target: Target, credential: Credential<'c>) -> Self {
        let proof = match credential {
            Credential::Password(password) => Proof::Password(password, turn(password, &target).await),
            Credential::Key(key) => Proof::Key(key),
        };
        Self { target, proof, on_stretch: None, start: None }
    }

    /// Sets a function that is called when a stretch of the password begins.
    pub fn on_stretch(self, told: &'c (dyn Fn() + Sync)) -> Self {
        Self { on_stretch: Some(told), ..self }
    }

    /// Asks for the service in the same flight as the proof, which saves a round trip, and casts the first message of the
    /// request behind it. Give [`channel::open_with`](crate::channel::open_with) or
    /// [`channel::open_resumable`](crate::channel::open_resumable) the same limits and request.
    ///
    /// Has an effect only with a private key: there, TLS alone authenticates the server, so nothing is shown to a server
    /// that has not proved itself. With a password, the server proves itself in its answer, and the arguments wait for it.
    /// Arguments or a message of nearly 1 KiB wait as well, since the client does not know yet how much the server takes.
    pub fn start_early(self, limits: &Limits, request: &OpenRequest<'_>) -> Self {
        Self { start: early_start(limits, request), ..self }
    }

    /// Logs in over a connection to the target, after the TLS handshake. When this returns `Ok`, the server has proved
    /// itself and the stream is at the first byte of the session.
    ///
    /// A dropped future leaves the connection unusable. A stretch that has begun continues to its end, and the password
    /// keeps its key.
    ///
    /// # Errors
    /// Returns an error if the server refused, did not prove itself, misbehaved or disconnected. After
    /// [`LoginError::KeyOutdated`], try once more, beginning with [`prepare`](Self::prepare).
    pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        stream: &mut S,
        exporter: Exporter,
    ) -> Result<Authenticated, LoginError> {
        let nonce = random_nonce().ok_or(LoginError::NoRandomness)?;
        let Target { service, client, .. } = self.target.clone();
        let mut buffer = [0; ExpectPasswordChallenge::MAX_LEN];
        let mut early = None;
        let Step { next, send } = match self.proof {
            Proof::Password(password, turn) => {
                let Step { next, send } = start_with_password(exporter, service, client, nonce);
                write(stream, &send).await?;
                let challenge = read_message(stream, ExpectPasswordChallenge::MAX_LEN, &mut buffer).await?;
                let next = next.handle(challenge)?;
                let keys = keys(password, self.target, &next, turn, self.on_stretch).await?;
                next.prove(&keys)?
            }
            Proof::Key(key) => {
                early = self.start;
                let Step { next, mut send } = start_with_key(&exporter, service, client, key, nonce)?;
                // In one record: a server that refuses has then read all of it, so its close is no reset.
                send.extend_from_slice(early.as_deref().unwrap_or_default());
                Step { next, send }
            }
        };
        write(stream, &send).await?;
        let mut authenticated =
            next.handle(read_message(stream, ExpectAccept::MAX_LEN, &mut buffer).await?)?;
        if let Some(early) = early {
            authenticated.sent_early(early);
        }
        Ok(authenticated)
    }
}

/// The reason why a client could not log in, sorted by who has to act.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// The server refused, misbehaved, or is not the server that it should be.
    #[error(transparent)]
    Handshake(#[from] ClientHandshakeError),
    /// The server states another salt or other parameters than at the last login with this password, and this attempt
    /// did not wait for its turn to stretch. The old key is discarded: connect again.
    #[error("the server has changed its salt or Argon2 parameters")]
    KeyOutdated,
    /// Not enough memory to stretch the password.
    #[error(transparent)]
    Stretch(#[from] StretchError),
    /// The connection was lost, or the server closed it.
    #[error("the connection was lost: {0}")]
    Io(#[from] io::Error),
    /// The system has no random bytes to give.
    #[error("the system gave no random bytes")]
    NoRandomness,
}

async fn turn(password: &Password, target: &Target) -> Option<SemaphorePermit<'static>> {
    if password.has_key_for(target) {
        return None;
    }
    // The semaphore is never closed.
    let turn = STRETCHING.acquire().await.ok()?;
    // Another login may have derived the same key during the wait.
    (!password.has_key_for(target)).then_some(turn)
}

/// Returns the keys for the challenge: known ones, or new ones if this login has its turn.
async fn keys(
    password: &Password,
    target: Target,
    challenge: &ExpectKeys,
    turn: Option<SemaphorePermit<'static>>,
    on_stretch: Option<&(dyn Fn() + Sync)>,
) -> Result<Arc<DerivedKeys>, LoginError> {
    let (salt, params) = (*challenge.salt(), challenge.params());
    if let Some(keys) = password.known_keys(&target, &salt, params) {
        return Ok(keys);
    }
    let Some(turn) = turn else {
        password.forget_keys(&target);
        return Err(LoginError::KeyOutdated);
    };
    if let Some(told) = on_stretch {
        told();
    }
    let password = password.clone();
    let stretch = move || {
        // The permit moves into the work, so a login that is given up does not let a second stretch begin beside this
        // one.
        let _turn = turn;
        let keys = Arc::new(DerivedKeys::derive(&password, &salt, params)?);
        password.remember_keys(&target, &salt, params, &keys);
        Ok(keys)
    };
    blocking(stretch).await?
}

async fn read_message<'b>(
    stream: &mut (impl AsyncRead + Unpin),
    max_len: usize,
    buffer: &'b mut [u8],
) -> Result<&'b [u8], ReadError> {
    let mut prefix = [0; 2];
    stream.read_exact(&mut prefix).await?;
    read_body(stream, prefix, max_len, buffer).await
}

async fn read_body<'b>(
    stream: &mut (impl AsyncRead + Unpin),
    prefix: [u8; 2],
    max_len: usize,
    buffer: &'b mut [u8],
) -> Result<&'b [u8], ReadError> {
    let len = checked_len(prefix, max_len)?;
    // Each side's buffer is as long as the longest message that it may have to receive.
    let body = buffer.get_mut(..len).ok_or(Misbehaviour::TooLong { len, max: max_len })?;
    stream.read_exact(body).await?;
    Ok(body)
}

/// The error for a message that is missing.
enum ReadError {
    Io(io::Error),
    Misbehaviour(Misbehaviour),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Misbehaviour> for ReadError {
    fn from(misbehaviour: Misbehaviour) -> Self {
        Self::Misbehaviour(misbehaviour)
    }
}

impl From<ReadError> for ServerLoginError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => Self::Io(error),
            ReadError::Misbehaviour(misbehaviour) => Self::ClientMisbehaved(misbehaviour),
        }
    }
}

impl From<ReadError> for LoginError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => Self::Io(error),
            ReadError::Misbehaviour(misbehaviour) => Self::Handshake(misbehaviour.into()),
        }
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    if message.is_empty() {
        return Ok(());
    }
    stream.write_all(message).await?;
    stream.flush().await
}

fn random_nonce() -> Option<[u8; 32]> {
    let mut nonce = [0; 32];
    aws_lc_rs::rand::fill(&mut nonce).ok()?;
    Some(nonce)
}

#[cfg(test)]
mod tests;
