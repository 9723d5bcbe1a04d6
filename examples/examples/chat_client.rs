//! A chat in the terminal: `chat_client URL PASSWORD_FILE [GROUP NICK]`. What others say appears above the line that is
//! being typed. `/who` shows who is there, Ctrl-D leaves.
#![expect(clippy::print_stdout, reason = "where there is no terminal to draw on")]

use std::thread;

use anyhow::bail;
use chan_client::connect;
use chan_examples::chat::{Chat as _, ChatMessage, MemberMessage, Place, Seat as _};
use lib_chan::secret::Password;
use lib_chan::{Channel, Event, ExitReason, Process, Remote, enter};
use rustyline::{DefaultEditor, ExternalPrinter};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [url, password_file, rest @ ..] = arguments.as_slice() else {
        bail!("usage: chat_client URL PASSWORD_FILE [GROUP NICK]");
    };
    let mut editor = DefaultEditor::new()?;
    let (group, nick) = match rest {
        [group, nick] => (group.clone(), nick.clone()),
        _ => (editor.readline("group: ")?, editor.readline("your name: ")?),
    };
    let password = Password::from_file(password_file)?;
    let chan: Channel<(), ChatMessage> = connect(url.as_str()).password(password).open().await?;
    let remote = chan.remote();
    enter(async |me| talk(me, remote, editor, group, nick).await).await?;
    Ok(chan.close().await?)
}

/// The process that is the member of the group.
async fn talk(
    mut me: Process<MemberMessage>,
    remote: Remote<ChatMessage>,
    mut editor: DefaultEditor,
    group: String,
    nick: String,
) -> Result<(), ExitReason> {
    let Place { seat, others } = remote.join(&group, &nick, me.address()).await?;
    me.monitor(seat.pid());

    // The editor blocks, so it has a thread. Both threads talk through queues, not through the terminal.
    let mut show = printer(&mut editor);
    let (typed, mut lines) = mpsc::channel(1);
    let typing = thread::spawn(move || {
        while let Ok(line) = editor.readline(&format!("{nick}> ")) {
            if typed.blocking_send(line).is_err() {
                return;
            }
        }
    });

    show(match others.as_slice() {
        [] => format!("* you are the first in {group}"),
        others => format!("* in {group}: {}", others.join(", ")),
    });
    loop {
        tokio::select! {
            line = lines.recv() => match line.as_deref().map(str::trim) {
                Some("") => {}
                Some("/who") => match seat.who().await {
                    Ok(nicks) => show(format!("* {}", nicks.join(", "))),
                    Err(error) => show(format!("* {error}")),
                },
                // If it cannot be sent the group has ended, and `Down` comes next.
                Some(text) => drop(seat.say(text).await),
                None => {
                    let _ = seat.leave().await;
                    return Ok(());
                }
            },
            event = me.recv() => match event {
                Event::Message(MemberMessage::Said { nick, text }) => show(format!("{nick}: {text}")),
                Event::Message(MemberMessage::Joined { nick }) => show(format!("* {nick} joined")),
                Event::Message(MemberMessage::Left { nick, why }) => show(format!("* {nick} left ({why})")),
                Event::Exit(..) => {}
                // The server stopped, the group was ended, the cable was pulled: the reason says which.
                Event::Down(_, _, mut reason) => {
                    if reason == ExitReason::NoConnection {
                        reason = remote.ended().await;
                    }
                    show(format!("* the chat is over ({reason}); Enter leaves"));
                    // The editor leaves the terminal as it was when it returns, and not when the program ends around it.
                    lines.close();
                    let _ = tokio::task::spawn_blocking(|| typing.join()).await;
                    return Err(ExitReason::failed("the chat was over"));
                }
            },
        }
    }
}

/// Shows lines above the one that is being typed. What others wrote must not drive this terminal, so control
/// characters are left out.
fn printer(editor: &mut DefaultEditor) -> impl FnMut(String) + use<> {
    let mut printer = editor.create_external_printer().ok();
    move |line: String| {
        let line: String = line.chars().filter(|c| !c.is_control()).collect();
        match &mut printer {
            // A terminal that shows nothing any more is found out when it is read from.
            Some(printer) => drop(printer.print(line + "\n")),
            None => println!("{line}"),
        }
    }
}
