//! The book's chat with groups.
//!
//! ```text
//!   client                          server
//!   member ══ join(…, member) ═══▶ chat ──Join──▶ group       the member's address is in the message
//!   member ◀═════════ joined, left, said ════════ group       the group tells it directly
//!   member ══════ say, who ══════▶ seat ────────▶ group       the answer has the address of a seat
//! ```
//!
//! * `chat` is one process. It knows which groups there are, and monitors them.
//! * A group is a process. It is linked to the seats of its members.
//! * A seat is the process through which one member talks to its group. It speaks under the name of that member, so nobody
//!   can speak as somebody else. It monitors the member and ends with it: whoever leaves, crashes or is cut off is gone from
//!   the group, after everything that it said. A member that monitors its seat knows why a group ended.
//!
//! One session may join many groups.

use std::collections::HashMap;
use std::time::Duration;

use chan_server::modules::Modules;
use lib_chan::protocol::{Caller, Schema};
use lib_chan::{Address, Channel, Event, ExitReason, Pid, Process, Reply, SendError, protocol, spawn};
use serde::{Deserialize, Serialize};

/// A chat, as its clients see it.
#[protocol]
pub trait Chat {
    /// Joins a group, under a name that nobody else has there. The group exists as long as somebody is in it.
    async fn join(group: String, nick: String, member: Address<MemberMessage>) -> Place;
}

/// A place in a group.
#[derive(Debug, Serialize, Deserialize, Schema)]
pub struct Place {
    /// The way to talk to the group. It ends with the group.
    pub seat: Address<SeatMessage>,
    /// The names of the others.
    pub others: Vec<String>,
}

/// A group, as one of its members sees it.
#[protocol]
pub trait Seat {
    /// Says something to all others.
    fn say(text: String);
    /// Returns the names of all members.
    async fn who() -> Vec<String>;
    /// Leaves the group, after everything that was said before.
    fn leave();
}

/// A member, as its group sees it.
#[protocol]
pub trait Member {
    /// `nick` has joined.
    fn joined(nick: String);
    /// `nick` has left or was lost. `why` is `normal`, or what happened.
    fn left(nick: String, why: String);
    /// `nick` has said something.
    fn said(nick: String, text: String);
}

/// The module `chat` with its function `start`, for clients of this chat (see [`chat`]).
pub fn modules(chat: Address<ToChat>) -> Modules {
    Modules::new().service("chat", "start", move |chan| door(chan, chat.clone()))
}

/// The process of a client's session.
async fn door(mut chan: Channel<ChatMessage, ()>, chat: Address<ToChat>) -> Result<(), ExitReason> {
    while let Some(message) = chan.recv().await {
        // The chat answers the call.
        chat.send(ToChat::Client(message)).await?;
    }
    Ok(())
}

/// A message to [`chat`].
#[derive(Debug)]
pub enum ToChat {
    /// A client asks for something.
    Client(ChatMessage),
    /// Asks for the process of a group: an operator who wants to end one sends it an exit signal.
    Find(String, Reply<Option<Pid>>),
    /// The last member of a group has left, after it had heard of so many joins.
    Empty(Pid, u64),
}

/// A group, and the number of joins that it was sent.
struct Known {
    group: Address<ToGroup>,
    joins: u64,
}

/// Starts a chat without groups.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn start() -> Address<ToChat> {
    spawn(chat)
}

/// The process that knows which groups there are.
///
/// # Errors
/// Never. It goes on until the program ends.
pub async fn chat(mut me: Process<ToChat>) -> Result<(), ExitReason> {
    let mut groups: HashMap<String, Known> = HashMap::new();
    loop {
        match me.recv().await {
            Event::Message(ToChat::Client(ChatMessage::Join { group, nick, member, reply })) => {
                if !is_name(&group) || !is_name(&nick) {
                    reply.refuse("names are 1 to 32 letters, digits, `-` or `_`");
                    continue;
                }
                let known = groups.entry(group).or_insert_with(|| start_group(&me));
                let mut join = ToGroup::Join { nick, member, reply };
                // A group that was ended gives the message back. Its `Down` is on its way.
                if let Err(SendError { message, reason: ExitReason::NoProc }) = known.group.try_send(join) {
                    (*known, join) = (start_group(&me), message);
                    let _ = known.group.try_send(join);
                }
                known.joins += 1;
            }
            Event::Message(ToChat::Find(name, reply)) => {
                reply.send(groups.get(&name).map(|known| known.group.pid()));
            }
            Event::Message(ToChat::Empty(pid, joins)) => {
                // A join may be on its way to the group, which then continues.
                groups.retain(|_, Known { group, joins: sent }| {
                    let ends = group.pid() == pid && *sent == joins;
                    if ends {
                        let _ = group.try_send(ToGroup::End);
                    }
                    !ends
                });
            }
            // Whatever a group ended of. By now there may be another of its name.
            Event::Down(_, pid, _) => groups.retain(|_, known| known.group.pid() != pid),
            Event::Exit(..) => {}
        }
    }
}

fn start_group(me: &Process<ToChat>) -> Known {
    let chat = me.address();
    let (group, _) = me.spawn_monitor(|me| group(me, chat));
    Known { group, joins: 0 }
}

fn is_name(text: &str) -> bool {
    let ok = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    (1..=32).contains(&text.chars().count()) && text.chars().all(ok)
}

/// A message to a group.
#[derive(Debug)]
enum ToGroup {
    Join {
        nick: String,
        member: Address<MemberMessage>,
        reply: Reply<Place>,
    },
    /// From the seat of a member.
    From(Pid, SeatMessage),
    /// The chat has forgotten the group.
    End,
}

/// A member of a group.
struct Present {
    nick: String,
    member: Address<MemberMessage>,
}

/// The members, by their seats.
type Members = HashMap<Pid, Present>;

/// The process of a group.
async fn group(mut me: Process<ToGroup>, chat: Address<ToChat>) -> Result<(), ExitReason> {
    // The ends of seats become events.
    me.trap_exit(true);
    let (mut members, mut joins) = (Members::new(), 0);
    loop {
        match me.recv().await {
            Event::Message(ToGroup::Join { nick, member, reply }) => {
                joins += 1;
                join(&mut me, &mut members, nick, member, reply).await;
            }
            Event::Message(ToGroup::From(from, SeatMessage::Say { text })) => {
                let Some(Present { nick, .. }) = members.get(&from) else { continue };
                for (_, other) in members.iter().filter(|(member, _)| **member != from) {
                    let _ = at_once(&other.member).said(nick, &text).await;
                }
            }
            Event::Message(ToGroup::From(_, SeatMessage::Who { reply })) => reply.send(nicks(&members)),
            // The seat ends instead of passing that on.
            Event::Message(ToGroup::From(_, SeatMessage::Leave {})) => {}
            Event::Message(ToGroup::End) => return Ok(()),
            Event::Exit(seat, why) => {
                if let Some(Present { nick, .. }) = members.remove(&seat) {
                    for other in members.values() {
                        let _ = at_once(&other.member).left(&nick, why.to_string()).await;
                    }
                }
            }
            Event::Down(..) => {}
        }
        if members.is_empty() {
            chat.send(ToChat::Empty(me.pid(), joins)).await?;
        }
    }
}

async fn join(
    me: &mut Process<ToGroup>,
    members: &mut Members,
    nick: String,
    member: Address<MemberMessage>,
    reply: Reply<Place>,
) {
    if members.values().any(|other| other.nick == nick) {
        return reply.refuse("somebody has this name already");
    }
    let others = nicks(members);
    for other in members.values() {
        let _ = at_once(&other.member).joined(&nick).await;
    }
    let (pid, group) = (member.pid(), me.address());
    let seat = me.spawn_link(move |me| seat(me, pid, group, |seat| reply.send(Place { seat, others })));
    members.insert(seat.pid(), Present { nick, member });
}

/// The process through which a member talks to its group. Ends with the reason of the member.
async fn seat(
    mut me: Process<SeatMessage>,
    member: Pid,
    group: Address<ToGroup>,
    joined: impl FnOnce(Address<SeatMessage>),
) -> Result<(), ExitReason> {
    // The monitor comes first: a member that leaves as soon as it has joined leaves with its own reason.
    me.monitor(member);
    joined(me.address());
    loop {
        match me.recv().await {
            Event::Message(SeatMessage::Leave {}) => return Ok(()),
            Event::Message(message) => group.send(ToGroup::From(me.pid(), message)).await?,
            Event::Down(_, _, ExitReason::Normal) => return Ok(()),
            Event::Down(_, _, why) => return Err(why),
            Event::Exit(..) => {}
        }
    }
}

/// Tells a member without waiting: one that does not read misses what is said, and keeps nobody else waiting.
fn at_once(member: &Address<MemberMessage>) -> impl Caller<MemberMessage> {
    member.within(Duration::ZERO)
}

fn nicks(members: &Members) -> Vec<String> {
    let mut nicks: Vec<_> = members.values().map(|member| member.nick.clone()).collect();
    nicks.sort();
    nicks
}
