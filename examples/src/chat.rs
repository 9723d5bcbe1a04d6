//! The book's chat with groups.
//!
//! ```text
//!   client ═══ member ──Join──▶ chat ──Join──▶ group      a client logs in: `member` is its process on the server
//!   client ═══════════════════════════════════ group      from then on the group has the channel, and `member` is gone
//! ```
//!
//! * `chat` is one process. It knows which groups there are, and monitors them.
//! * A group is a process. It owns the channels of its members, and monitors their far ends: whoever leaves, crashes or
//!   is cut off is gone from the group, and the others are told. When the group itself ends, however that comes about,
//!   so do the sessions of its members, and each of them knows why.

use std::{collections::HashMap, time::Duration};

use chan_server::modules::Modules;
use lib_chan::{
    Address, Call, CallError, CallFailure, Channel, Event, ExitReason, Incoming, Message, MonitorRef, Pid,
    Process, Remote, Reply, SendError, spawn,
};
use serde::{Deserialize, Serialize};

/// What a client says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Say {
    /// A call, and the first thing said.
    Login(Login),
    /// A cast, for all others in the group.
    Relay(String),
    /// A call.
    Who(Who),
}

/// Wants to be in a group, under a name that nobody else has there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Login {
    /// The group. It is there as long as somebody is in it.
    pub group: String,
    /// The name.
    pub nick: String,
}

/// Asks who is in the group.
#[derive(Debug, Serialize, Deserialize)]
pub struct Who;

/// The others in the group.
impl Call for Login {
    type Reply = Vec<String>;
}

/// Everybody in the group.
impl Call for Who {
    type Reply = Vec<String>;
}

impl From<Login> for Say {
    fn from(login: Login) -> Self {
        Self::Login(login)
    }
}

impl From<Who> for Say {
    fn from(who: Who) -> Self {
        Self::Who(who)
    }
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// Somebody came.
    Joined {
        /// Who.
        nick: String,
    },
    /// Somebody went, or was lost.
    Left {
        /// Who.
        nick: String,
        /// Why: `normal`, or what happened to it.
        why: String,
    },
    /// Somebody said something.
    Said {
        /// Who.
        nick: String,
        /// What.
        text: String,
    },
}

/// How long processes wait for each other. They are on one machine and never busy for long.
const PATIENCE: Duration = Duration::from_secs(10);

/// The module `chat` with its function `start`, for clients of this chat (see [`chat`]).
pub fn modules(chat: Address<ToChat>) -> Modules {
    Modules::new().service("chat", "start", move |chan| member(chan, chat.clone()))
}

/// The process of a client that has not joined a group yet.
async fn member(mut chan: Channel<Say, Told>, chat: Address<ToChat>) -> Result<(), ExitReason> {
    while let Some(message) = chan.recv().await {
        let Message::Call(Say::Login(login), reply) = message else {
            // Ends this process and with it the session. The client gets the reason.
            return Err(ExitReason::failed("log in first"));
        };
        let reply = reply.to(&login);
        match join(&chat, login, &chan).await {
            Ok(Seat { group, member, others }) => {
                reply.send(others);
                // What the client says now arrives in the mailbox of the group, wrapped like this. The session ends
                // with the group from here on, not with this process.
                let given = chan.give_to(&group, move |what| ToGroup::From(member, what));
                return given.map_err(|_chan| ExitReason::NoProc);
            }
            Err(CallError { reason: CallFailure::Refused(text), .. }) => reply.refuse(&text),
            // The reply is dropped, so the client is told as well.
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

async fn join(chat: &Address<ToChat>, login: Login, chan: &Channel<Say, Told>) -> Result<Seat, CallError> {
    loop {
        let (Login { group, nick }, remote) = (login.clone(), chan.remote());
        let ask = |reply| ToChat::Join(Join { group, nick, remote, reply });
        let seat = chat.call(PATIENCE, ask).await;
        match seat {
            // The group's last member left, and it ended before it came to this. A place in it would be worth nothing,
            // so it does no harm to ask for one twice.
            Err(CallError { reason: CallFailure::Exit(ExitReason::Normal), .. }) => {}
            seat => return seat,
        }
    }
}

/// A message to [`chat`].
#[derive(Debug)]
pub enum ToChat {
    /// Somebody wants to be in a group.
    Join(Join),
    /// Asks for the process of a group: an operator who wants to end one sends it an exit signal.
    Find(String, Reply<Option<Pid>>),
}

/// The wish to be in a group.
#[derive(Debug)]
pub struct Join {
    group: String,
    nick: String,
    /// Where the group sends to.
    remote: Remote<Told>,
    /// Answered by the group.
    reply: Reply<Seat>,
}

/// A place in a group.
#[derive(Debug)]
struct Seat {
    group: Address<ToGroup>,
    /// The group's monitor of the member stands for the member.
    member: MonitorRef,
    others: Vec<String>,
}

/// The process that knows which groups there are.
///
/// # Errors
/// Never. It goes on until the program ends.
pub async fn chat(mut me: Process<ToChat>) -> Result<(), ExitReason> {
    let mut groups: HashMap<String, Address<ToGroup>> = HashMap::new();
    loop {
        match me.recv().await {
            Event::Message(ToChat::Join(join)) if !is_name(&join.group) || !is_name(&join.nick) => {
                join.reply.refuse("names are 1 to 32 letters, digits, `-` or `_`");
            }
            Event::Message(ToChat::Join(join)) => {
                let there = groups.entry(join.group.clone()).or_insert_with(|| me.spawn_monitor(group).0);
                let sent = there.try_send(ToGroup::Join(join));
                // A group that has ended gives the message back. Its `Down` is on its way.
                if let Err(SendError { message, reason: ExitReason::NoProc }) = sent {
                    *there = me.spawn_monitor(group).0;
                    let _ = there.try_send(message);
                }
            }
            Event::Message(ToChat::Find(name, reply)) => reply.send(groups.get(&name).map(Address::pid)),
            // Whatever a group ended of. By now there may be another of its name.
            Event::Down(_, pid, _) => groups.retain(|_, group| group.pid() != pid),
            Event::Exit(..) => {}
        }
    }
}

fn is_name(text: &str) -> bool {
    let ok = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    (1..=32).contains(&text.chars().count()) && text.chars().all(ok)
}

/// A message to a group.
#[derive(Debug)]
enum ToGroup {
    Join(Join),
    /// From the channel of a member.
    From(MonitorRef, Incoming<Say>),
}

struct Member {
    nick: String,
    remote: Remote<Told>,
}

/// The process of a group. Ends when the last has left.
async fn group(mut me: Process<ToGroup>) -> Result<(), ExitReason> {
    // Whoever holds the other end of a channel may link to the process that owns it, and send it exit signals. No
    // member shall end the group that way: these become events.
    me.trap_exit(true);
    let mut members: HashMap<MonitorRef, Member> = HashMap::new();
    loop {
        match me.recv().await {
            Event::Message(ToGroup::Join(join)) => enter(&me, &mut members, join),
            Event::Message(ToGroup::From(member, Incoming::Message(message))) => {
                hear(&members, member, message);
            }
            // The monitor says the same. It also speaks for one that went before its channel was here.
            Event::Message(ToGroup::From(_, Incoming::Ended(_))) => {}
            Event::Down(member, _, why) => {
                if let Some(Member { nick, .. }) = members.remove(&member) {
                    tell(members.values(), &Told::Left { nick, why: why.to_string() });
                }
                if members.is_empty() {
                    return Ok(());
                }
            }
            // A member that is linked has ended, which its monitor says as well; or one has tried to end the group.
            Event::Exit(..) => {}
        }
    }
}

fn enter(me: &Process<ToGroup>, members: &mut HashMap<MonitorRef, Member>, join: Join) {
    let Join { nick, remote, reply, .. } = join;
    if members.values().any(|member| member.nick == nick) {
        return reply.refuse("somebody has this name already");
    }
    let others = nicks(members);
    tell(members.values(), &Told::Joined { nick: nick.clone() });
    // If it is gone already, `Down` comes at once.
    let member = me.monitor(remote.pid());
    members.insert(member, Member { nick, remote });
    reply.send(Seat { group: me.address(), member, others });
}

fn hear(members: &HashMap<MonitorRef, Member>, from: MonitorRef, message: Message<Say>) {
    match message {
        Message::Cast(Say::Relay(text)) => {
            let Some(Member { nick, .. }) = members.get(&from) else { return };
            let others = members.iter().filter(|(member, _)| **member != from).map(|(_, member)| member);
            tell(others, &Told::Said { nick: nick.clone(), text });
        }
        Message::Call(Say::Who(who), reply) => reply.to(&who).send(nicks(members)),
        Message::Call(_, reply) => reply.refuse("you are in a group already"),
        Message::Cast(_) => {}
    }
}

fn nicks(members: &HashMap<MonitorRef, Member>) -> Vec<String> {
    let mut nicks: Vec<_> = members.values().map(|member| member.nick.clone()).collect();
    nicks.sort();
    nicks
}

/// Tells several. `try_cast` never waits: one who does not read misses what is said, and keeps nobody else waiting.
fn tell<'m>(members: impl Iterator<Item = &'m Member>, what: &Told) {
    for member in members {
        let _ = member.remote.try_cast(what.clone());
    }
}

/// Starts a chat without groups.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn start() -> Address<ToChat> {
    spawn(chat)
}
