//! Services of machines without a public address: `mfa = ["provided", "for", NAME]` for the providers, who dial out, and
//! `mfa = ["provided", "by", NAME]` for their consumers.
//!
//! A provider hands the server a process that opens streams to its target. A service `by` is a relay whose target is a
//! stream of one of the providers. Both functions know a group by its name, so a provider reaches no other consumers than
//! those of its name.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use lib_chan::auth::ServiceName;
use lib_chan::payload::Codec;
use lib_chan::relay::{
    Junction, JunctionError, PiecesMessage, ProvidersMessage, Relay, StreamEnd, Streams, StreamsMessage,
};
use lib_chan::{
    Address, CallError, CallFailure, Channel, ConnectionState, Event, Executed, ExitReason, Opaque, Process,
    Remote, Rights, enter,
};
use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer};
use tokio::time::Instant;

use super::relay::{LAST_BYTES_TIMEOUT, RelayContext, Target, Unconnected};
use crate::gate::locked;

/// The codec of a provider.
pub(super) const CODECS: &[Codec] = &[Codec::Bincode];

/// The time for which a provider that failed to open a stream is asked only if all others have failed too. Otherwise a
/// provider that answers nothing would stay the least busy one, and get every stream.
const AVOID_FOR: Duration = Duration::from_secs(10);

const JUNCTION: Junction = Junction::new(LAST_BYTES_TIMEOUT);

/// The name under which something is provided: 1 to 64 letters, digits, `.`, `_` and `-`.
pub(super) struct ProvidedName(String);

impl<'de> Deserialize<'de> for ProvidedName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match ServiceName::new(&text) {
            Ok(_) => Ok(Self(text)),
            Err(_) => Err(D::Error::invalid_value(
                Unexpected::Str(&text),
                &"a name of 1 to 64 letters, digits, dots, underscores and hyphens, such as \"office-ssh\"",
            )),
        }
    }
}

/// The part that a service has in what is provided.
#[derive(Clone, Debug)]
pub(crate) struct Provided {
    pub(crate) role: ProvidedRole,
    pub(super) group: Arc<Group>,
}

/// Whether the clients of a service provide something or use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProvidedRole {
    /// Its clients are providers.
    For,
    /// Its clients are consumers.
    By,
}

impl Provided {
    /// Returns the name.
    pub(crate) fn name(&self) -> &str {
        &self.group.name
    }

    /// Returns the number of providers.
    pub(crate) fn providers(&self) -> usize {
        locked(&self.group.providers).len()
    }
}

/// The groups of providers, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Providers(Arc<Mutex<HashMap<String, Weak<Group>>>>);

impl Providers {
    /// Returns the group of this name. It lasts as long as a configuration names it, or a session belongs to it.
    pub(super) fn group(&self, ProvidedName(name): &ProvidedName) -> Arc<Group> {
        let mut groups = locked(&self.0);
        if let Some(group) = groups.get(name).and_then(Weak::upgrade) {
            return group;
        }
        groups.retain(|_, group| group.strong_count() > 0);
        let group = Arc::new(Group { name: name.clone(), providers: Mutex::default() });
        groups.insert(name.clone(), Arc::downgrade(&group));
        group
    }
}

/// The providers of one name.
#[derive(Debug)]
pub(super) struct Group {
    name: String,
    /// In the order of their arrival.
    providers: Mutex<Vec<Arc<Provider>>>,
}

/// The session of a provider.
#[derive(Debug)]
struct Provider {
    /// The number of the session, as the log has it.
    session: u64,
    remote: Remote<()>,
    streams: Address<StreamsMessage>,
    /// The most streams at once.
    max_streams: usize,
    /// Streams that are open or being opened. Changed under the lock of the group.
    open: AtomicUsize,
    /// How often it was asked for a stream, and how many it has opened.
    asked: AtomicU64,
    opened: AtomicU64,
    failed: Mutex<Option<Instant>>,
}

impl Provider {
    fn is_detached(&self) -> bool {
        matches!(self.remote.connection(), ConnectionState::Detached { .. })
    }

    fn has_failed_lately(&self) -> bool {
        locked(&self.failed).is_some_and(|failed| failed.elapsed() < AVOID_FOR)
    }
}

/// The reason that no provider can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoProvider {
    Nobody,
    AllFull,
}

impl Group {
    /// Returns the provider for the next stream: one with a connection, that has not failed lately, with the fewest open
    /// streams. Among equals, the one that was asked least often so far.
    fn choose(self: &Arc<Self>, tried: &[u64]) -> Result<Chosen, NoProvider> {
        let mut best = None;
        let mut candidates = Vec::new();
        // A copy: the lock of the group is not held while sessions are asked for their state.
        let providers = locked(&self.providers).clone();
        for provider in providers.into_iter().filter(|provider| !tried.contains(&provider.session)) {
            let state = (provider.is_detached(), provider.has_failed_lately());
            candidates.push((state, provider));
        }
        if candidates.is_empty() {
            return Err(NoProvider::Nobody);
        }
        let _turn = locked(&self.providers);
        for (state, provider) in candidates {
            let open = provider.open.load(Ordering::Relaxed);
            let rank = (state, open, provider.asked.load(Ordering::Relaxed));
            if open < provider.max_streams && best.as_ref().is_none_or(|(least, _)| rank < *least) {
                best = Some((rank, provider));
            }
        }
        let (_, provider) = best.ok_or(NoProvider::AllFull)?;
        provider.open.fetch_add(1, Ordering::Relaxed);
        provider.asked.fetch_add(1, Ordering::Relaxed);
        Ok(Chosen(provider))
    }

    fn explain(&self, why: NoProvider) -> String {
        match why {
            NoProvider::Nobody => format!("nobody provides {} at the moment", self.name),
            NoProvider::AllFull => {
                format!("the providers of {} have all the connections that they take", self.name)
            }
        }
    }

    /// Opens a stream with the least busy provider that takes it, and joins it with the consumer. `first` is the first piece
    /// of the consumer.
    async fn serve(
        self: &Arc<Self>,
        consumer: Consumer<'_>,
        first: Bytes,
        within: Duration,
        context: &dyn RelayContext,
    ) -> Result<(), ExitReason> {
        let deadline = Instant::now() + within;
        let (mut tried, mut refusal) = (Vec::new(), None);
        let (mut consumer, mut first) = (Some(consumer), Some(first));
        loop {
            let chosen = match self.choose(&tried) {
                Ok(chosen) => chosen,
                Err(why) => return Err(refusal.unwrap_or(OpenFailed::None(why)).tell(self, context)),
            };
            let left = deadline.saturating_duration_since(Instant::now());
            // The process in front of the provider. Its mailbox tells the provider's pieces from the consumer's. Each
            // provider gets another one: what a provider sends that refuses the stream must not get into it.
            let failed = enter(async |mut me: Process<PiecesMessage>| {
                me.trap_exit(true);
                let piece = first.clone().unwrap_or_default();
                let far = match Box::pin(chosen.open(&mut me, piece, left)).await {
                    Ok(far) => far,
                    Err(failed) => return Ok(Some(failed)),
                };
                first = None;
                let Some(consumer) = consumer.take() else { return Ok(None) };
                context.provider_found(chosen.0.session);
                let joined = consumer.join(StreamEnd::new(&mut me, far, Bytes::new())).await;
                joined.map(|()| None).map_err(|error| error.reason())
            });
            match failed.await? {
                None => return Ok(()),
                Some(failed) if failed.is_final() => return Err(failed.tell(self, context)),
                Some(failed) => refusal = Some(failed),
            }
            tried.push(chosen.0.session);
        }
    }
}

/// The end of a stream that a provider is found for.
enum Consumer<'c> {
    Session(Channel<Opaque>),
    Stream(&'c mut Process<PiecesMessage>, Address<PiecesMessage>),
}

impl Consumer<'_> {
    async fn join(self, provider: StreamEnd<'_>) -> Result<(), JunctionError> {
        match self {
            Self::Session(chan) => JUNCTION.join_session(chan, provider).await,
            Self::Stream(me, client) => {
                JUNCTION.join_streams(StreamEnd::new(me, client, Bytes::new()), provider).await
            }
        }
    }
}

/// A provider that was chosen for a stream, which counts until this value is dropped.
struct Chosen(Arc<Provider>);

impl Chosen {
    /// Opens a stream. `me` is the process of this end.
    async fn open(
        &self,
        me: &mut Process<PiecesMessage>,
        first: Bytes,
        within: Duration,
    ) -> Result<Address<PiecesMessage>, OpenFailed> {
        let session = self.0.session;
        let client = me.address().grant(Rights { link: true, ..Rights::default() });
        let failed = match self.0.streams.within(within).open(first, client).await {
            // A process of this program would take pieces without credit.
            Ok(far) if far.is_far() => {
                *locked(&self.0.failed) = None;
                self.0.opened.fetch_add(1, Ordering::Relaxed);
                // The provider links the two, or should.
                me.monitor(far.pid());
                return Ok(far);
            }
            Ok(_) => OpenFailed::Broken(session),
            Err(CallError { reason: CallFailure::Refused(text), .. }) => {
                OpenFailed::Refused(session, text.to_string())
            }
            Err(CallError { executed: Executed::No, reason: CallFailure::Exit(_), .. }) => {
                OpenFailed::Unseen(session)
            }
            Err(CallError { executed: Executed::No, reason, .. }) => {
                OpenFailed::NotAsked(session, reason.to_string())
            }
            Err(CallError { reason: CallFailure::Exit(_), .. }) => OpenFailed::Lost(session),
            Err(error) => OpenFailed::NoAnswer(session, error.reason.to_string()),
        };
        *locked(&self.0.failed) = Some(Instant::now());
        Err(failed)
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The reason that no provider opened a stream, with the session of the last one that was asked.
enum OpenFailed {
    None(NoProvider),
    /// With a text of the provider.
    Refused(u64, String),
    /// The request could not be sent, as with too many calls in flight.
    NotAsked(u64, String),
    NoAnswer(u64, String),
    /// It answered with something else than a process of its own.
    Broken(u64),
    /// The provider left before it saw the request.
    Unseen(u64),
    /// The provider left in the midst of it.
    Lost(u64),
}

impl OpenFailed {
    /// Returns `true` if the provider may have used the first piece, so that no other may be asked.
    fn is_final(&self) -> bool {
        matches!(self, Self::NoAnswer(..) | Self::Broken(_) | Self::Lost(_))
    }

    /// Writes down the reason, and returns the one for the client.
    fn tell(self, group: &Group, context: &dyn RelayContext) -> ExitReason {
        let unconnected = match self {
            Self::None(why) => Unconnected { detail: group.explain(why), public: group.explain(why) },
            Self::Refused(session, text) => {
                let detail = format!("the provider of session {session} refused: {text}");
                // The text is the provider's, and names what it dials with the words of a service.
                let public = text.strip_prefix("target: ").unwrap_or(&text).to_owned();
                Unconnected { detail, public }
            }
            Self::NotAsked(session, why) | Self::NoAnswer(session, why) => Unconnected {
                detail: format!("the provider of session {session} did not open a stream: {why}"),
                public: "the provider did not answer".into(),
            },
            Self::Broken(session) => Unconnected {
                detail: format!("the provider of session {session} answered with a process of the server"),
                public: "the provider broke the protocol".into(),
            },
            Self::Unseen(session) | Self::Lost(session) => {
                context.target_failed(&format!("the provider of session {session} left"));
                return ExitReason::NoConnection;
            }
        };
        unconnected.tell(context)
    }
}

impl Target for Arc<Group> {
    fn unavailable(&self) -> Option<String> {
        let providers = locked(&self.providers);
        if providers.is_empty() {
            return Some(self.explain(NoProvider::Nobody));
        }
        let is_full =
            |provider: &Arc<Provider>| provider.open.load(Ordering::Relaxed) >= provider.max_streams;
        providers.iter().all(is_full).then(|| self.explain(NoProvider::AllFull))
    }

    async fn carry_session(
        self,
        chan: Channel<Opaque>,
        context: Arc<dyn RelayContext>,
    ) -> Result<(), ExitReason> {
        let within = chan.limits().dial_timeout;
        self.serve(Consumer::Session(chan), Bytes::new(), within, &*context).await
    }

    async fn carry_stream(
        &self,
        me: &mut Process<PiecesMessage>,
        client: Address<PiecesMessage>,
        first: Bytes,
        within: Duration,
        context: &dyn RelayContext,
    ) -> Result<(), ExitReason> {
        self.serve(Consumer::Stream(me, client), first, within, context).await
    }
}

/// Keeps a provider among those of its name until its session ends: see [`lib_chan::relay::Providers`].
///
/// # Errors
/// The process that opens streams has failed.
pub(super) async fn serve(
    mut me: Process,
    mut chan: Channel<ProvidersMessage, ()>,
    group: Arc<Group>,
    context: Arc<dyn RelayContext>,
) -> Result<(), ExitReason> {
    let Some(_place) = first_offer(&mut me, &mut chan, &group, context).await else { return Ok(()) };
    let ended = async {
        loop {
            if let Event::Down(_, _, reason) = me.recv().await {
                return reason;
            }
        }
    };
    let surplus = async {
        while let Some(ProvidersMessage::Provide { reply, .. }) = chan.recv().await {
            reply.refuse("a session provides once");
        }
    };
    tokio::select! {
        biased;
        () = surplus => Ok(()),
        reason = ended => match reason {
            // A provider that leaves in order ends its process just before its session.
            ExitReason::Normal | ExitReason::Shutdown => Ok(()),
            reason => Err(ExitReason::failed(format!("the provider's process has ended: {reason}"))),
        },
    }
}

/// Waits until the client provides something; `None` if its session ends before that.
async fn first_offer(
    me: &mut Process,
    chan: &mut Channel<ProvidersMessage, ()>,
    group: &Arc<Group>,
    context: Arc<dyn RelayContext>,
) -> Option<ProviderPlace> {
    loop {
        let ProvidersMessage::Provide { streams, max_streams, reply } = chan.recv().await?;
        if !streams.is_far() || max_streams == 0 {
            reply.refuse("a provider needs a process of the client, and carries one stream at least");
            continue;
        }
        let remote = chan.remote();
        // Before the answer, so that the reason of its end is known even if it ends at once.
        me.monitor(streams.pid());
        // The process that opens the streams takes a handle and a monitor of its own.
        let max_streams = max_streams.min(Relay::max_streams(&remote).saturating_sub(1)).max(1);
        let provider = Arc::new(Provider {
            session: context.session(),
            remote,
            streams,
            max_streams: max_streams as usize,
            open: AtomicUsize::new(0),
            asked: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            failed: Mutex::default(),
        });
        let place = ProviderPlace { group: Arc::clone(group), provider, context, began: Instant::now() };
        locked(&group.providers).push(Arc::clone(&place.provider));
        place.context.provider_arrived(&group.name);
        reply.send(());
        return Some(place);
    }
}

/// The place of a provider in its group. Dropping it takes the provider out.
struct ProviderPlace {
    group: Arc<Group>,
    provider: Arc<Provider>,
    context: Arc<dyn RelayContext>,
    began: Instant,
}

impl Drop for ProviderPlace {
    fn drop(&mut self) {
        locked(&self.group.providers).retain(|provider| !Arc::ptr_eq(provider, &self.provider));
        let streams = self.provider.opened.load(Ordering::Relaxed);
        self.context.provider_left(&self.group.name, streams, self.began.elapsed());
    }
}
