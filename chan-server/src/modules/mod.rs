//! The modules and functions that an `mfa` can name, and how one is started for a client.

mod args;
pub mod echo;
pub mod name_server;
mod provided;
mod relay;
pub mod tcp;
pub mod unix;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use lib_chan::channel::Opening;
use lib_chan::payload::Codec;
use lib_chan::protocol::Receive;
use lib_chan::{Channel, ExitReason, Process, SpawnOptions};
use serde::de::DeserializeOwned;
use toml::de::DeArray;

use self::args::ArgsError;
pub(crate) use self::provided::{Provided, ProvidedRole};
use self::provided::{ProvidedName, Providers};
pub(crate) use self::relay::RelayContext;
use self::relay::{Dialled, Target};
use crate::words::{nearest, shown};

/// A table of functions, by module and name, that a configuration's `mfa` chooses from.
///
/// A function is spawned as a process of its own for each client, like `Mod:Func(MM, ArgsC, ArgsS)`: it gets its
/// process, the channel to the client, what the client gave as arguments, and what the configuration gave. State that
/// clients share is what the closure captured: an [`Address`](lib_chan::Address), usually.
///
/// ```
/// # use chan_server::modules::Modules;
/// # use lib_chan::{Channel, Process};
/// let modules = Modules::new().function(
///     "counter",
///     "up_to",
///     |_me: Process, mut chan: Channel<u64>, (): (), (limit,): (u64,)| async move {
///         for n in 0..limit {
///             chan.remote().cast(n).await?;
///         }
///         while chan.recv().await.is_some() {}
///         Ok(())
///     },
/// );
/// ```
#[derive(Clone, Default)]
pub struct Modules {
    modules: BTreeMap<String, BTreeMap<String, Arc<dyn Function>>>,
}

impl Modules {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// The functions that come with the server: `name_server:start_me_up`, `echo:start`, `tcp:connect`,
    /// `unix:connect`, `provided:for` and `provided:by`.
    ///
    /// Spawns the process of the name server, so it must be called inside a tokio runtime. Each table has a name
    /// server and providers of its own.
    pub fn standard() -> Self {
        let any = &[Codec::Bincode, Codec::Json, Codec::Raw];
        let kvs = lib_chan::spawn(name_server::kvs);
        Self::new()
            .function("name_server", "start_me_up", move |_me: Process, chan, (): (), max_len| {
                name_server::start_me_up(chan, kvs.clone(), max_len)
            })
            .function_for(any, "echo", "start", |me, chan, (): (), (): ()| echo::start(me, chan))
            .dialled::<tcp::HostPort>("tcp")
            .dialled::<unix::SocketPath>("unix")
            .provided()
    }

    /// Adds a function that gets the channel to its client and nothing else. Otherwise it is as
    /// [`function`](Self::function).
    pub fn service<In, Out, F, Fut>(self, module: &str, function: &str, start: F) -> Self
    where
        In: Receive + Send,
        Out: Send + 'static,
        F: Fn(Channel<In, Out>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), ExitReason>> + Send + 'static,
    {
        self.function(module, function, move |_me: Process, chan, (): (), (): ()| start(chan))
    }

    /// Adds a function with typed messages, for clients that speak bincode or JSON. One of the same name is replaced.
    ///
    /// `ArgsS` is decoded from the values behind module and function when the configuration is loaded: `()` for none,
    /// `(String,)` for one, `(String, u16)` for two.
    pub fn function<M, In, Out, ArgsC, ArgsS, F, Fut>(self, module: &str, function: &str, start: F) -> Self
    where
        M: Send + 'static,
        In: Receive + Send,
        Out: Send + 'static,
        ArgsC: DeserializeOwned + Send + 'static,
        ArgsS: DeserializeOwned + Clone + Send + Sync + 'static,
        F: Fn(Process<M>, Channel<In, Out>, ArgsC, ArgsS) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), ExitReason>> + Send + 'static,
    {
        self.function_for(TYPED, module, function, start)
    }

    /// Adds a function for clients that speak one of these codecs; others are refused by name, after their login.
    pub fn function_for<M, In, Out, ArgsC, ArgsS, F, Fut>(
        self,
        codecs: &'static [Codec],
        module: &str,
        function: &str,
        start: F,
    ) -> Self
    where
        M: Send + 'static,
        In: Receive + Send,
        Out: Send + 'static,
        ArgsC: DeserializeOwned + Send + 'static,
        ArgsS: DeserializeOwned + Clone + Send + Sync + 'static,
        F: Fn(Process<M>, Channel<In, Out>, ArgsC, ArgsS) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), ExitReason>> + Send + 'static,
    {
        let start = Arc::new(start);
        self.insert(module, function, move |args| {
            let args = args::decode::<ArgsS>(args)?;
            let start = Arc::clone(&start);
            Ok(PreparedStart::new(Box::new(move |opening, _| {
                let (start, args) = (Arc::clone(&start), args.clone());
                open(codecs, opening, move |me, chan, args_c| start(me, chan, args_c, args))
            })))
        })
    }

    /// Adds the function `connect` of a relay to a target that the server connects to by itself.
    fn dialled<T: Dialled>(self, module: &str) -> Self {
        self.insert(module, "connect", move |args| {
            let (target,) = args::decode::<(T,)>(args)?;
            Ok(PreparedStart::new(relay(target)))
        })
    }

    /// Adds the functions `for` and `by` of the module `provided`, with a table of providers of their own.
    fn provided(self) -> Self {
        let to_join = Providers::default();
        let to_ask = to_join.clone();
        let this = self.insert("provided", "for", move |args| {
            let (name,) = args::decode::<(ProvidedName,)>(args)?;
            let group = to_join.group(&name);
            let provided = Provided { role: ProvidedRole::For, group: Arc::clone(&group) };
            let start: Start = Box::new(move |opening, context| {
                let group = Arc::clone(&group);
                open(provided::CODECS, opening, |me, chan, (): ()| provided::serve(me, chan, group, context))
            });
            Ok(PreparedStart { provided: Some(provided), start })
        });
        this.insert("provided", "by", move |args| {
            let (name,) = args::decode::<(ProvidedName,)>(args)?;
            let group = to_ask.group(&name);
            let provided = Provided { role: ProvidedRole::By, group: Arc::clone(&group) };
            Ok(PreparedStart { provided: Some(provided), start: relay(group) })
        })
    }

    fn insert(
        mut self,
        module: &str,
        function: &str,
        prepare: impl Fn(DeArray<'_>) -> Result<PreparedStart, ArgsError> + Send + Sync + 'static,
    ) -> Self {
        self.modules.entry(module.into()).or_default().insert(function.into(), Arc::new(prepare));
        self
    }

    /// Looks up a function, and decodes the arguments it is to have.
    pub(crate) fn starter(
        &self,
        module: &str,
        function: &str,
        args: DeArray<'_>,
    ) -> Result<Starter, MfaError> {
        let functions =
            self.modules.get(module).ok_or_else(|| MfaError::Module(unknown(module, &self.modules)))?;
        let prepare = functions.get(function).ok_or_else(|| MfaError::Function {
            module: module.into(),
            unknown: unknown(function, functions),
        })?;
        let name = format!("{module}:{function}");
        match prepare.prepare(args) {
            Ok(PreparedStart { start, provided }) => Ok(Starter { name, start, provided }),
            Err(error) => Err(MfaError::Args { name, error }),
        }
    }
}

impl fmt::Debug for Modules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            self.modules.iter().map(|(module, functions)| (module, functions.keys().collect::<Vec<_>>()));
        f.debug_map().entries(names).finish()
    }
}

/// The reason that an `mfa` names no function.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MfaError {
    #[error("this program has no module {0}")]
    Module(String),
    #[error("module \"{module}\" has no function {unknown}")]
    Function { module: String, unknown: String },
    #[error("{name}: {error}")]
    Args { name: String, error: ArgsError },
}

impl MfaError {
    /// Its place in the configuration, if known.
    pub(crate) fn span(&self) -> Option<Range<usize>> {
        match self {
            Self::Args { error, .. } => error.span.clone(),
            Self::Module(_) | Self::Function { .. } => None,
        }
    }
}

fn unknown<T>(name: &str, known: &BTreeMap<String, T>) -> String {
    let name = shown(name);
    match nearest(&name, known.keys().map(String::as_str)) {
        Some(near) => format!("\"{name}\"; did you mean \"{near}\"?"),
        None => {
            let known: Vec<_> = known.keys().map(String::as_str).collect();
            format!("\"{name}\"; expected {}", known.join(", "))
        }
    }
}

/// The codecs of typed messages.
const TYPED: &[Codec] = &[Codec::Bincode, Codec::Json];

/// A function with the arguments that the configuration gave it.
pub(crate) struct Starter {
    name: String,
    start: Start,
    provided: Option<Provided>,
}

impl Starter {
    /// A function that no configuration names.
    pub(crate) fn new<In, Out, F, Fut>(name: &str, start: F) -> Self
    where
        In: Receive + Send,
        Out: Send + 'static,
        F: Fn(Channel<In, Out>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), ExitReason>> + Send + 'static,
    {
        let start = Arc::new(start);
        let start = move |opening, _| {
            let start = Arc::clone(&start);
            open(TYPED, opening, move |_me: Process, chan, (): ()| start(chan))
        };
        Self { name: name.into(), start: Box::new(start), provided: None }
    }

    /// Module and function.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Set if each of its processes has its own connection to a target.
    pub(crate) fn is_relay(&self) -> bool {
        matches!(&*self.name, "tcp:connect" | "unix:connect")
    }

    /// Returns the name that its clients provide, or are served by the providers of.
    pub(crate) fn provided(&self) -> Option<&Provided> {
        self.provided.as_ref()
    }

    /// Spawns the function for a client.
    ///
    /// # Errors
    /// With the words with which the client was refused instead.
    pub(crate) fn start(&self, opening: Opening, context: Arc<dyn RelayContext>) -> Result<(), String> {
        (self.start)(opening, context)
    }
}

impl fmt::Debug for Starter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Starter({})", self.name)
    }
}

/// Starts a relay to a target. A session with the codec `raw` is one stream; a session with `bincode` and the argument
/// [`STREAMS`](lib_chan::relay::STREAMS) carries many.
fn relay<T: Target>(target: T) -> Start {
    Box::new(move |opening, context| {
        let target = target.clone();
        match (opening.codec(), target.unavailable()) {
            (Codec::Bincode, _) => open(relay::CODECS, opening, |me, chan, args| {
                relay::serve_many(me, chan, args, target, context)
            }),
            (Codec::Raw, Some(why)) => {
                opening.refuse(&why);
                Err(why)
            }
            _ => {
                open(relay::CODECS, opening, |_me: Process, chan, (): ()| target.carry_session(chan, context))
            }
        }
    })
}

/// A function with its arguments.
struct PreparedStart {
    start: Start,
    provided: Option<Provided>,
}

impl PreparedStart {
    fn new(start: Start) -> Self {
        Self { start, provided: None }
    }
}

type Start = Box<dyn Fn(Opening, Arc<dyn RelayContext>) -> Result<(), String> + Send + Sync>;

/// A function whose types are forgotten.
trait Function: Send + Sync {
    fn prepare(&self, args: DeArray<'_>) -> Result<PreparedStart, ArgsError>;
}

impl<F: Fn(DeArray<'_>) -> Result<PreparedStart, ArgsError> + Send + Sync> Function for F {
    fn prepare(&self, args: DeArray<'_>) -> Result<PreparedStart, ArgsError> {
        self(args)
    }
}

/// Spawns `start` for a client that speaks one of these codecs. Returns the words of a refusal.
fn open<M, In, Out, ArgsC, F, Fut>(codecs: &[Codec], opening: Opening, start: F) -> Result<(), String>
where
    M: Send + 'static,
    In: Receive + Send,
    Out: Send + 'static,
    ArgsC: DeserializeOwned + Send + 'static,
    F: FnOnce(Process<M>, Channel<In, Out>, ArgsC) -> Fut + Send + 'static,
    Fut: Future<Output = Result<(), ExitReason>> + Send + 'static,
{
    let opening = opening.agree::<In>()?;
    if !codecs.contains(&opening.codec()) {
        let known: Vec<_> = codecs.iter().map(Codec::to_string).collect();
        let public = format!("the service speaks {}, not {}", known.join(" or "), opening.codec());
        opening.refuse_codec(&public);
        return Err(public);
    }
    let args_c = match opening.args::<ArgsC>() {
        Ok(args) => args,
        Err(error) => {
            let public = format!("the arguments: {error}");
            opening.refuse_codec(&public);
            return Err(public);
        }
    };
    // The channel is made inside the process, which owns it from its first moment: a function that returns or panics
    // at once still ends the session with its own reason.
    let mailbox_capacity = opening.limits().mailbox_capacity;
    lib_chan::spawn_with(
        SpawnOptions { mailbox_capacity, ..SpawnOptions::default() },
        move |me: Process<M>| async move {
            let chan = opening.accept::<In, Out>();
            start(me, chan, args_c).await
        },
    );
    Ok(())
}
