//! A chat in the terminal: `chat_client URL PASSWORD_FILE [GROUP NICK]`. What others say appears above the line that is
//! being typed. `/who` shows who is there, Ctrl-D leaves.
#![expect(clippy::print_stdout, reason = "where there is no terminal to draw on")]

use std::thread;

use anyhow::bail;
use chan_client::connect;
use chan_examples::chat::{Login, Say, Told, Who};
use lib_chan::{Channel, Message, secret::Password};
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
    let mut chan: Channel<Told, Say> = connect(url.as_str()).password(password).open().await?;
    let remote = chan.remote();
    let others = remote.call(Login { group: group.clone(), nick: nick.clone() }).await?;

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
                Some("/who") => match remote.call(Who).await {
                    Ok(nicks) => show(format!("* {}", nicks.join(", "))),
                    Err(error) => show(format!("* {error}")),
                },
                // If it cannot be sent the session has ended, which is what `recv` says next.
                Some(text) => drop(remote.cast(Say::Relay(text.into())).await),
                None => break,
            },
            told = chan.recv() => match told {
                Some(Message::Cast(Told::Said { nick, text })) => show(format!("{nick}: {text}")),
                Some(Message::Cast(Told::Joined { nick })) => show(format!("* {nick} joined")),
                Some(Message::Cast(Told::Left { nick, why })) => show(format!("* {nick} left ({why})")),
                Some(Message::Call(_, reply)) => reply.refuse("a chat client answers no calls"),
                None => {
                    // The server stopped, the group was ended, the cable was pulled: the reason says which.
                    show(format!("* the chat is over ({}); Enter leaves", remote.ended().await));
                    // The editor leaves the terminal as it was when it returns, and not when the program ends around it.
                    lines.close();
                    let _ = tokio::task::spawn_blocking(|| typing.join()).await?;
                    bail!("the chat was over");
                }
            },
        }
    }
    // The group sees us leave, after everything that we said.
    chan.close().await?;
    Ok(())
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
