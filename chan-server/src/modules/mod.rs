//! What an `mfa` can name: modules, their functions, and how one is started for a client.

mod args;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use lib_chan::payload::Codec;
use lib_chan::{Channel, ExitReason, Opening, Pid, Process, Refusal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::de::DeArray;

use crate::config::nearest;

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

    /// Adds a function with typed messages, for clients that speak bincode or JSON. One of the same name is replaced.
    ///
    /// `ArgsS` is decoded from the values behind module and function when the configuration is loaded: `()` for none,
    /// `(String,)` for one, `(String, u16)` for two.
    pub fn function<M, In, Out, ArgsC, ArgsS, F, Fut>(self, module: &str, function: &str, start: F) -> Self
    where
        M: Send + 'static,
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        ArgsC: DeserializeOwned + Send + 'static,
        ArgsS: DeserializeOwned + Clone + Send + Sync + 'static,
        F: Fn(Process<M>, Channel<In, Out>, ArgsC, ArgsS) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), ExitReason>> + Send + 'static,
    {
        self.function_for(&[Codec::Bincode, Codec::Json], module, function, start)
    }

    /// Adds a function for clients that speak one of these codecs; others are refused by name, after their login.
    pub fn function_for<M, In, Out, ArgsC, ArgsS, F, Fut>(
        mut self,
        codecs: &'static [Codec],
        module: &str,
        function: &str,
        start: F,
    ) -> Self
    where
        M: Send + 'static,
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        ArgsC: DeserializeOwned + Send + 'static,
        ArgsS: DeserializeOwned + Clone + Send + Sync + 'static,
        F: Fn(Process<M>, Channel<In, Out>, ArgsC, ArgsS) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), ExitReason>> + Send + 'static,
    {
        let start = Arc::new(start);
        let prepare = move |args: DeArray<'_>| {
            let args = args::decode::<ArgsS>(args)?;
            let start = Arc::clone(&start);
            Ok(Box::new(move |opening| open(codecs, opening, Arc::clone(&start), args.clone())) as Start)
        };
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
            Ok(start) => Ok(Starter { name, start }),
            Err(error) => Err(MfaError::Args { name, what: error.message().into(), span: error.span() }),
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

/// Why there is no such function for an `mfa`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MfaError {
    #[error("unknown module {0}")]
    Module(String),
    #[error("unknown function {unknown} in module \"{module}\"")]
    Function { module: String, unknown: String },
    #[error("{name} {what}")]
    Args { name: String, what: String, span: Option<Range<usize>> },
}

impl MfaError {
    /// Where in the configuration it is, if that is known.
    pub(crate) fn span(&self) -> Option<Range<usize>> {
        match self {
            Self::Args { span, .. } => span.clone(),
            Self::Module(_) | Self::Function { .. } => None,
        }
    }
}

fn unknown<T>(name: &str, known: &BTreeMap<String, T>) -> String {
    match nearest(name, known.keys().map(String::as_str)) {
        Some(near) => format!("\"{name}\"; did you mean \"{near}\"?"),
        None => format!(
            "\"{name}\"; known are: {}",
            known.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
        ),
    }
}

/// A function with the arguments that the configuration gave it.
pub(crate) struct Starter {
    name: String,
    start: Start,
}

impl Starter {
    /// Module and function.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Spawns the function for a client; `None` when the client was refused by name.
    pub(crate) fn start(&self, opening: Opening) -> Option<Pid> {
        (self.start)(opening)
    }
}

impl fmt::Debug for Starter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Starter({})", self.name)
    }
}

type Start = Box<dyn Fn(Opening) -> Option<Pid> + Send + Sync>;

/// A function whose types are forgotten.
trait Function: Send + Sync {
    fn prepare(&self, args: DeArray<'_>) -> Result<Start, toml::de::Error>;
}

impl<F: Fn(DeArray<'_>) -> Result<Start, toml::de::Error> + Send + Sync> Function for F {
    fn prepare(&self, args: DeArray<'_>) -> Result<Start, toml::de::Error> {
        self(args)
    }
}

fn open<M, In, Out, ArgsC, ArgsS, F, Fut>(
    codecs: &[Codec],
    opening: Opening,
    start: Arc<F>,
    args_s: ArgsS,
) -> Option<Pid>
where
    M: Send + 'static,
    In: DeserializeOwned + Send + 'static,
    Out: Serialize + Send + 'static,
    ArgsC: DeserializeOwned + Send + 'static,
    ArgsS: Send + 'static,
    F: Fn(Process<M>, Channel<In, Out>, ArgsC, ArgsS) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), ExitReason>> + Send + 'static,
{
    if !codecs.contains(&opening.codec()) {
        opening.refuse(Refusal::Codec);
        return None;
    }
    let args_c = match opening.args::<ArgsC>() {
        Ok(args) => args,
        Err(error) => {
            opening.refuse(Refusal::Args(error));
            return None;
        }
    };
    // The channel is made inside the process, which owns it from its first moment: a function that returns or panics
    // at once still ends the session with its own reason.
    let address = lib_chan::spawn(move |me: Process<M>| async move {
        let chan = opening.accept::<In, Out>();
        start(me, chan, args_c, args_s).await
    });
    Some(address.pid())
}
