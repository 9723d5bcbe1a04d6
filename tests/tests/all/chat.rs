//! The chat, driven by clients without a terminal.

use std::time::Duration;

use chan_client::connect;
use chan_examples::chat::{self, Login, Say, ToChat, Told, Who};
use chan_tests::{Embedded, PATIENCE, client_key};
use lib_chan::{Address, CallFailure, Channel, ExitReason, Message, Pid};
use tokio::time::timeout;

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
        let chan: Channel<Told, Say> = self.server.open("start").await;
        let joined = chan.remote().call(login(group, nick)).await;
        assert_eq!(joined.expect("there is a place"), others);
        Member(chan)
    }

    async fn group(&self, name: &str) -> Option<Pid> {
        self.chat.call(PATIENCE, |reply| ToChat::Find(name.into(), reply)).await.expect("the chat lives")
    }
}

fn login(group: &str, nick: &str) -> Login {
    Login { group: group.into(), nick: nick.into() }
}

struct Member(Channel<Told, Say>);

impl Member {
    async fn say(&self, text: &str) {
        self.0.remote().cast(Say::Relay(text.into())).await.expect("the session lives");
    }

    async fn told(&mut self) -> Told {
        match timeout(PATIENCE, self.0.recv()).await.expect("told in time") {
            Some(Message::Cast(told)) => told,
            other => panic!("{other:?}"),
        }
    }

    async fn who(&self) -> Vec<String> {
        self.0.remote().call(Who).await.expect("an answer")
    }

    async fn over(&self) -> ExitReason {
        timeout(PATIENCE, self.0.remote().ended()).await.expect("told in time")
    }
}

fn joined(nick: &str) -> Told {
    Told::Joined { nick: nick.into() }
}

fn left(nick: &str, why: &str) -> Told {
    Told::Left { nick: nick.into(), why: why.into() }
}

fn said(nick: &str, text: &str) -> Told {
    Told::Said { nick: nick.into(), text: text.into() }
}

#[tokio::test]
async fn members_hear_joins_and_leaves() {
    let chat = Chat::start();
    let mut joe = chat.member("erlang", "joe", &[]).await;
    let mut mike = chat.member("erlang", "mike", &["joe"]).await;
    let mut elsewhere = chat.member("prolog", "joe", &[]).await;
    assert_eq!(joe.told().await, joined("mike"));
    joe.say("hello").await;
    assert_eq!(mike.told().await, said("joe", "hello"));
    mike.say("hello joe").await;
    assert_eq!(joe.told().await, said("mike", "hello joe"));
    assert_eq!(joe.who().await, ["joe", "mike"]);
    mike.say("I have to go").await;
    mike.0.close().await.unwrap();
    assert_eq!(joe.told().await, said("mike", "I have to go"));
    assert_eq!(joe.told().await, left("mike", "normal"));
    assert_eq!(joe.who().await, ["joe"]);
    // Nothing of all that was heard in the other group.
    let robert = chat.member("prolog", "robert", &["joe"]).await;
    assert_eq!(elsewhere.told().await, joined("robert"));
    drop(robert);
    assert_eq!(elsewhere.told().await, left("robert", "normal"));
}

#[tokio::test]
async fn crashed_member_leaves_group() {
    let chat = Chat::start();
    let mut joe = chat.member("erlang", "joe", &[]).await;
    let url = chat.server.url("start");
    // A process that is linked to its group, which by itself would end with it.
    let mike = lib_chan::spawn(async move |_me: lib_chan::Process| {
        let key = client_key();
        let chan: Channel<Told, Say> =
            connect(url.as_str()).key(&key).linked().open().await.expect("a session");
        chan.remote().call(login("erlang", "mike")).await?;
        Err(ExitReason::failed("out of coffee"))
    });
    assert_eq!(joe.told().await, joined("mike"));
    assert_eq!(joe.told().await, left("mike", "failed: out of coffee"));
    assert_eq!(mike.pid().ended().await, ExitReason::failed("out of coffee"));
    assert_eq!(joe.who().await, ["joe"]);
}

#[tokio::test]
async fn no_member_can_end_the_group() {
    let chat = Chat::start();
    let mut joe = chat.member("erlang", "joe", &[]).await;
    let mike = chat.member("erlang", "mike", &["joe"]).await;
    assert_eq!(joe.told().await, joined("mike"));
    for reason in [ExitReason::Kill, ExitReason::Shutdown, ExitReason::failed("because I can")] {
        mike.0.remote().pid().exit(reason);
    }
    mike.say("still here").await;
    assert_eq!(joe.told().await, said("mike", "still here"));
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
    assert_eq!(joe.told().await, joined("mike"));
    let _robert = chat.member("prolog", "robert", &["alain"]).await;
    assert_eq!(elsewhere.told().await, joined("robert"));
}

#[tokio::test]
async fn an_empty_group_is_gone() {
    let chat = Chat::start();
    let joe = chat.member("erlang", "joe", &[]).await;
    let group = chat.group("erlang").await.expect("the group");
    joe.0.close().await.unwrap();
    assert_eq!(group.ended().await, ExitReason::Normal);
    // The chat gets its `Down` from the same process, and is asked after that.
    while chat.group("erlang").await.is_some() {
        tokio::task::yield_now().await;
    }
    let _joe = chat.member("erlang", "joe", &[]).await;
}

#[tokio::test]
async fn refuses_taken_name_and_allows_another() {
    let chat = Chat::start();
    let mut joe = chat.member("erlang", "joe", &[]).await;
    let chan: Channel<Told, Say> = chat.server.open("start").await;
    for (nick, why) in [("joe", "somebody has this name"), ("", "names are"), ("\x1b[2J", "names are")] {
        let refused = chan.remote().call(login("erlang", nick)).await.unwrap_err();
        assert!(matches!(&refused.reason, CallFailure::Refused(text) if text.contains(why)), "{refused}");
    }
    assert_eq!(chan.remote().call(login("erlang", "robert")).await.unwrap(), ["joe"]);
    assert_eq!(joe.told().await, joined("robert"));
    let again = chan.remote().call(login("erlang", "joe")).await.unwrap_err();
    assert!(matches!(again.reason, CallFailure::Refused(_)), "{again}");
}

#[tokio::test]
async fn ends_connection_that_talks_before_login() {
    let chat = Chat::start();
    let stranger = Member(chat.server.open("start").await);
    stranger.say("hello?").await;
    assert_eq!(stranger.over().await, ExitReason::failed("log in first"));
}

#[tokio::test]
async fn non_reading_member_delays_nobody() {
    let chat = Chat::start();
    let _deaf = chat.member("erlang", "deaf", &[]).await;
    let joe = chat.member("erlang", "joe", &["deaf"]).await;
    let mut mike = chat.member("erlang", "mike", &["deaf", "joe"]).await;
    // Many times what may be under way to one member.
    let text = "x".repeat(10_000);
    for _ in 0..200 {
        joe.say(&text).await;
        assert_eq!(mike.told().await, said("joe", &text));
    }
}

#[tokio::test]
async fn many_members_come_and_go() {
    let chat = Chat::start();
    let mut joe = chat.member("erlang", "joe", &[]).await;
    let url = chat.server.url("start");
    let mut guests = tokio::task::JoinSet::new();
    for guest in 0..12 {
        let url = url.clone();
        guests.spawn(async move {
            let key = client_key();
            let chan: Channel<Told, Say> = connect(url.as_str()).key(&key).open().await.expect("a session");
            // In two groups by turns, of which one is sometimes empty.
            let group = if guest % 2 == 0 { "erlang" } else { "fleeting" };
            chan.remote().call(login(group, &format!("guest-{guest}"))).await.expect("a place");
            drop(chan);
        });
    }
    while let Some(guest) = guests.join_next().await {
        guest.unwrap();
    }
    let (mut came, mut went) = (0, 0);
    while went < 6 {
        match joe.told().await {
            Told::Joined { .. } => came += 1,
            Told::Left { .. } => went += 1,
            other @ Told::Said { .. } => panic!("{other:?}"),
        }
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
