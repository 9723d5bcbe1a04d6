//! The chat, driven by clients without a terminal.

use std::time::Duration;

use chan_client::connect;
use chan_examples::chat::{
    self, Chat as _, ChatMessage, MemberMessage, Place, Seat as _, SeatMessage, ToChat,
};
use chan_tests::{Embedded, PATIENCE, client_key};
use lib_chan::{Address, CallFailure, Channel, Event, ExitReason, Pid, Process, spawn};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

struct Chat {
    server: Embedded,
    chat: Address<ToChat>,
}

impl Chat {
    /// Inside the test's runtime, as every process that the closure captures.
    fn start() -> Self {
        let chat = chat::start();
        Self { server: Embedded::serve(chat::modules(chat.clone()), "chat", &["start"], ""), chat }
    }

    async fn member(&self, group: &str, nick: &str, others: &[&str]) -> Member {
        let (member, came) = Member::join(self.server.url("start"), group, nick).await;
        assert_eq!(came, others);
        member
    }

    async fn group(&self, name: &str) -> Option<Pid> {
        self.chat.call(PATIENCE, |reply| ToChat::Find(name.into(), reply)).await.expect("the chat lives")
    }
}

/// A process of a client that is in a group, by way of a session of its own.
struct Member {
    chan: Channel<(), ChatMessage>,
    seat: Address<SeatMessage>,
    told: mpsc::UnboundedReceiver<String>,
    leave: oneshot::Sender<Result<(), ExitReason>>,
    pid: Pid,
}

impl Member {
    async fn join(url: String, group: &str, nick: &str) -> (Self, Vec<String>) {
        let (group, nick) = (group.to_owned(), nick.to_owned());
        let (tell, told) = mpsc::unbounded_channel();
        let (leave, mut left) = oneshot::channel();
        let (placed, place) = oneshot::channel();
        let key = client_key();
        // Opened by no process, so it does not end with the member: the group is told the reason.
        let chan: Channel<(), ChatMessage> = connect(url.as_str()).key(&key).open().await.expect("a session");
        let remote = chan.remote();
        let member = spawn(async move |mut me: Process<MemberMessage>| {
            let Place { seat, others } = remote.join(group, nick, me.address()).await?;
            me.monitor(seat.pid());
            let _ = placed.send((seat, others));
            loop {
                let event = tokio::select! {
                    event = me.recv() => event,
                    why = &mut left => return why.unwrap_or(Ok(())),
                };
                match event {
                    Event::Message(message) => drop(tell.send(shown(message))),
                    Event::Down(_, _, reason) => return Err(reason),
                    Event::Exit(..) => {}
                }
            }
        });
        let pid = member.pid();
        let (seat, others) =
            timeout(PATIENCE, place).await.expect("placed in time").expect("there is a place");
        (Self { chan, seat, told, leave, pid }, others)
    }

    async fn say(&self, text: &str) {
        self.seat.say(text).await.expect("the group lives");
    }

    async fn told(&mut self) -> String {
        timeout(PATIENCE, self.told.recv()).await.expect("told in time").expect("the member lives")
    }

    async fn who(&self) -> Vec<String> {
        self.seat.who().await.expect("an answer")
    }

    /// Ends the member. Returns its session, without which nobody would hear of the reason.
    async fn leave(self, why: Result<(), ExitReason>) -> Channel<(), ChatMessage> {
        let _ = self.leave.send(why);
        self.pid.ended().await;
        self.chan
    }

    async fn over(self) -> ExitReason {
        let Self { pid, leave: _leave, chan: _chan, .. } = self;
        timeout(PATIENCE, pid.ended()).await.expect("told in time")
    }
}

fn shown(message: MemberMessage) -> String {
    match message {
        MemberMessage::Joined { nick } => format!("{nick} joined"),
        MemberMessage::Left { nick, why } => format!("{nick} left ({why})"),
        MemberMessage::Said { nick, text } => format!("{nick}: {text}"),
    }
}

#[tokio::test]
async fn members_hear_joins_and_leaves() {
    let chat = Chat::start();
    let mut joe = chat.member("erlang", "joe", &[]).await;
    let mut mike = chat.member("erlang", "mike", &["joe"]).await;
    let mut elsewhere = chat.member("prolog", "joe", &[]).await;
    assert_eq!(joe.told().await, "mike joined");
    joe.say("hello").await;
    assert_eq!(mike.told().await, "joe: hello");
    mike.say("hello joe").await;
    assert_eq!(joe.told().await, "mike: hello joe");
    assert_eq!(joe.who().await, ["joe", "mike"]);
    mike.say("I have to go").await;
    let _session = mike.leave(Ok(())).await;
    assert_eq!(joe.told().await, "mike: I have to go");
    assert_eq!(joe.told().await, "mike left (normal)");
    assert_eq!(joe.who().await, ["joe"]);
    // Nothing of all that was heard in the other group.
    let robert = chat.member("prolog", "robert", &["joe"]).await;
    assert_eq!(elsewhere.told().await, "robert joined");
    let _session = robert.leave(Ok(())).await;
    assert_eq!(elsewhere.told().await, "robert left (normal)");
}

#[tokio::test]
async fn crashed_member_leaves_group() {
    let chat = Chat::start();
    let mut joe = chat.member("erlang", "joe", &[]).await;
    let mike = chat.member("erlang", "mike", &["joe"]).await;
    assert_eq!(joe.told().await, "mike joined");
    let _session = mike.leave(Err(ExitReason::failed("out of coffee"))).await;
    assert_eq!(joe.told().await, "mike left (failed: out of coffee)");
    assert_eq!(joe.who().await, ["joe"]);
}

#[tokio::test]
async fn no_member_can_end_the_group() {
    let chat = Chat::start();
    let mut joe = chat.member("erlang", "joe", &[]).await;
    let mike = chat.member("erlang", "mike", &["joe"]).await;
    assert_eq!(joe.told().await, "mike joined");
    for reason in [ExitReason::Kill, ExitReason::Shutdown, ExitReason::failed("because I can")] {
        mike.seat.pid().exit(reason);
    }
    mike.say("still here").await;
    assert_eq!(joe.told().await, "mike: still here");
}

#[tokio::test]
async fn members_of_killed_group_can_return() {
    let chat = Chat::start();
    let joe = chat.member("erlang", "joe", &[]).await;
    let mike = chat.member("erlang", "mike", &["joe"]).await;
    let mut elsewhere = chat.member("prolog", "alain", &[]).await;
    chat.group("erlang").await.expect("the group").exit(ExitReason::Kill);
    assert_eq!(joe.over().await, ExitReason::Killed);
    assert_eq!(mike.over().await, ExitReason::Killed);
    let mut joe = chat.member("erlang", "joe", &[]).await;
    let _mike = chat.member("erlang", "mike", &["joe"]).await;
    assert_eq!(joe.told().await, "mike joined");
    let _robert = chat.member("prolog", "robert", &["alain"]).await;
    assert_eq!(elsewhere.told().await, "robert joined");
}

#[tokio::test]
async fn an_empty_group_is_gone() {
    let chat = Chat::start();
    let joe = chat.member("erlang", "joe", &[]).await;
    let group = chat.group("erlang").await.expect("the group");
    let _session = joe.leave(Ok(())).await;
    assert_eq!(group.ended().await, ExitReason::Normal);
    // The chat forgets a group before it ends it.
    assert!(chat.group("erlang").await.is_none());
    let _joe = chat.member("erlang", "joe", &[]).await;
}

#[tokio::test]
async fn refuses_taken_name_and_allows_another() {
    let chat = Chat::start();
    let mut joe = chat.member("erlang", "joe", &[]).await;
    let chan: Channel<(), ChatMessage> = chat.server.open("start").await;
    let robert = spawn(async |mut me: Process<MemberMessage>| {
        loop {
            me.recv().await;
        }
    });
    for (nick, why) in [("joe", "somebody has this name"), ("", "names are"), ("\x1b[2J", "names are")] {
        let refused = chan.remote().join("erlang", nick, robert.clone()).await.unwrap_err();
        assert!(matches!(&refused.reason, CallFailure::Refused(text) if text.contains(why)), "{refused}");
    }
    assert_eq!(chan.remote().join("erlang", "robert", robert.clone()).await.unwrap().others, ["joe"]);
    assert_eq!(joe.told().await, "robert joined");
    // One session may be in several groups.
    assert!(chan.remote().join("prolog", "robert", robert).await.unwrap().others.is_empty());
}

#[tokio::test]
async fn non_reading_member_delays_nobody() {
    let chat = Chat::start();
    let chan: Channel<(), ChatMessage> = chat.server.open("start").await;
    let deaf = spawn(async |_me: Process<MemberMessage>| std::future::pending().await);
    let _deaf = chan.remote().join("erlang", "deaf", deaf).await.unwrap();
    let joe = chat.member("erlang", "joe", &["deaf"]).await;
    let mut mike = chat.member("erlang", "mike", &["deaf", "joe"]).await;
    // Many times what may be under way to one member.
    let text = "x".repeat(10_000);
    for _ in 0..200 {
        joe.say(&text).await;
        assert_eq!(mike.told().await, format!("joe: {text}"));
    }
}

#[tokio::test]
async fn many_members_come_and_go() {
    let chat = Chat::start();
    let mut joe = chat.member("erlang", "joe", &[]).await;
    let mut guests = tokio::task::JoinSet::new();
    for guest in 0..12 {
        let url = chat.server.url("start");
        guests.spawn(async move {
            // In two groups by turns, of which one is sometimes empty.
            let group = if guest % 2 == 0 { "erlang" } else { "fleeting" };
            let (member, _) = Member::join(url, group, &format!("guest-{guest}")).await;
            let _session = member.leave(Ok(())).await;
        });
    }
    while let Some(guest) = guests.join_next().await {
        guest.unwrap();
    }
    let (mut came, mut went) = (0, 0);
    while went < 6 {
        let told = joe.told().await;
        came += usize::from(told.ends_with("joined"));
        // The session may be gone before its process has told why it ended.
        went += usize::from(told.contains("left ("));
    }
    assert_eq!(came, 6);
    assert_eq!(joe.who().await, ["joe"]);
    timeout(Duration::from_secs(30), async {
        while chat.group("fleeting").await.is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the other group is gone");
}
