//! The programs as a person sees them who sits in front of a terminal.

use std::process::Command;
use std::time::{Duration, Instant};

use chan_tests::{Folder, NAMES_AND_ECHO, PASSWORD, Proxy, Server, Terminal, nobody, program};

fn client(arguments: &[&str]) -> Command {
    let mut client = Command::new(program("chan-client"));
    client.args(arguments);
    client
}

/// A client of `service` that has been asked for the password and was given it.
fn logged_in(server: &Server, command: &str, service: &str, more: &[&str]) -> Terminal {
    let mut terminal = Terminal::start(client(&[command, server.url(service)]).args(more));
    terminal.see("Password for ");
    terminal.type_keys(&format!("{PASSWORD}\n"));
    terminal
}

/// A server, and a client at the first prompt of a conversation with `service`.
fn at_prompt(service: &str) -> (Server, Terminal) {
    at_prompt_with(service, &[])
}

fn at_prompt_with(service: &str, more: &[&str]) -> (Server, Terminal) {
    let server = Server::start(NAMES_AND_ECHO);
    let mut terminal = logged_in(&server, "repl", service, more);
    terminal.see_prompt();
    (server, terminal)
}

#[test]
fn a_password_is_asked_for_and_not_shown() {
    let server = Server::start(NAMES_AND_ECHO);
    let mut terminal = Terminal::start(&client(&["call", server.url("echo"), "42"]));
    let authority = server.url("echo").split('/').nth(2).unwrap();
    terminal.see(&format!("Password for echo at {authority}: "));
    terminal.type_keys(&format!("{PASSWORD}\n"));
    let shown = terminal.see("42");
    assert!(!shown.contains("horse"), "{shown}");
    assert_eq!(terminal.ended(), 0);
}

#[test]
fn client_restores_terminal_without_password() {
    for (key, words, code) in NO_PASSWORD {
        let mut terminal = Terminal::start(&client(&["ping", "chan://localhost:1/s?system"]));
        terminal.see("Password for ");
        assert!(!terminal.shows_typing());
        terminal.type_keys(key);
        terminal.see(words);
        assert_eq!(terminal.ended(), code);
    }
}

/// Keys that end a question without an answer, what is said to them, and the exit code.
const NO_PASSWORD: [(&str, &str, i32); 3] =
    [("\x03", "interrupted", 130), ("\x04", "no password was given", 2), ("half\x03", "interrupted", 130)];

fn passwd(folder: &Folder) -> Terminal {
    let mut passwd = Command::new(program("chan-server"));
    passwd.args(["passwd", "names", "--state"]).arg(folder.path());
    let mut terminal = Terminal::start(&passwd);
    terminal.see("Password: ");
    terminal
}

#[test]
fn server_restores_terminal_without_password() {
    let folder = Folder::new();
    for (key, words, code) in NO_PASSWORD {
        for first in [None, Some(PASSWORD)] {
            let mut terminal = passwd(&folder);
            if let Some(first) = first {
                terminal.type_keys(&format!("{first}\n"));
                terminal.see("Once more: ");
            }
            assert!(!terminal.shows_typing());
            terminal.type_keys(key);
            let shown = terminal.see(words);
            assert!(!shown.contains("half") && !shown.contains("horse"), "{shown}");
            assert_eq!(terminal.ended(), code);
        }
    }
}

#[test]
fn password_must_be_typed_twice_alike() {
    let folder = Folder::new();
    let mut terminal = passwd(&folder);
    terminal.type_keys(&format!("{PASSWORD}\n"));
    terminal.see("Once more: ");
    terminal.type_keys(&format!("{PASSWORD}\n"));
    terminal.see("$chan$argon2id$");
    assert_eq!(terminal.ended(), 0);

    let mut terminal = passwd(&folder);
    terminal.type_keys(&format!("{PASSWORD}\n"));
    terminal.see("Once more: ");
    terminal.type_keys("correct horse battery stapel\n");
    terminal.see("not the same; nothing was made");
    assert_eq!(terminal.ended(), 2);
}

#[test]
fn a_conversation_is_held_and_left() {
    let (server, mut terminal) = at_prompt("names");
    terminal.type_keys("{\"Lookup\":{\"key\":\"joe\"}}\r");
    terminal.see("null");
    terminal.see_prompt();
    server.signal("STOP");
    terminal.type_keys("{\"Lookup\":{\"key\":\"mike\"}}\r");
    terminal.see_prompt();
    terminal.type_keys("\x03");
    terminal.see("cancelled (perhaps executed");
    terminal.see_prompt();
    server.signal("CONT");
    terminal.type_keys("\x04");
    assert_eq!(terminal.ended(), 0);
}

/// Sees each of these twice, typed and answered, in whichever order.
fn see_all_twice(terminal: &mut Terminal, messages: &[String]) {
    let mut seen = String::new();
    let twice = |seen: &str| messages.iter().all(|message| seen.matches(message).count() >= 2);
    while !twice(&seen) {
        // The line editor says so whenever it has drawn something.
        seen += &terminal.see("\x1b[?2026l");
    }
}

#[test]
fn burst_is_shown_without_lost_lines() {
    let (_server, mut terminal) = at_prompt("echo");
    let messages: Vec<_> = (0..20).map(|number| format!("{{\"n\":[{number}]}}")).collect();
    terminal.type_keys(&messages.iter().map(|message| format!("{message}\r")).collect::<String>());
    see_all_twice(&mut terminal, &messages);
    // Without the end of the line.
    terminal.type_keys("[\"part of a line\"");
    terminal.see("[\"part of a line\"");
    terminal.type_keys("\x03");
    terminal.see("Ctrl-D leaves");
    terminal.type_keys("\x04");
    assert_eq!(terminal.ended(), 0);
}

#[test]
fn pasted_lines_are_a_message_each() {
    let (_server, mut terminal) = at_prompt("echo");
    let messages: Vec<_> = (0..20).map(|number| format!("{{\"n\":[{number}]}}")).collect();
    // As a terminal hands over what is pasted.
    terminal.type_keys(&format!("\x1b[200~{}\x1b[201~", messages.join("\r")));
    terminal.see("19");
    terminal.type_keys("\r");
    for message in &messages {
        terminal.see(message);
    }
    terminal.type_keys("\x04");
    assert_eq!(terminal.ended(), 0);
}

/// Not a wait for something: each try finds the editor a little further, in some between two lines.
fn let_pass(gap: Duration) {
    let moment = Instant::now() + gap;
    while Instant::now() < moment {}
}

#[test]
fn ctrl_c_is_heard_wherever_the_editor_is() {
    let server = Server::start(NAMES_AND_ECHO);
    let mut terminal = logged_in(&server, "repl", "echo", &[]);
    for tries in 0..200 {
        terminal.see_prompt();
        terminal.type_keys("1\r");
        let_pass(Duration::from_micros(tries * 2));
        terminal.type_keys("\x03");
        // Whether or not there was still something to cancel.
        terminal.see("- ");
    }
    terminal.see_prompt();
    terminal.type_keys("\x04");
    assert_eq!(terminal.ended(), 0);
}

#[test]
fn early_ctrl_d_leaves_after_line() {
    let server = Server::start(NAMES_AND_ECHO);
    for tries in 0..6 {
        let mut terminal = logged_in(&server, "repl", "echo", &[]);
        terminal.see_prompt();
        terminal.type_keys("1\r");
        let_pass(Duration::from_micros(80 + tries * 30));
        terminal.type_keys("\x04");
        assert_eq!(terminal.ended(), 0);
    }
}

#[test]
fn second_ctrl_c_cancels_pending_answers() {
    let (server, mut terminal) = at_prompt("echo");
    server.signal("STOP");
    terminal.type_keys("1\r2\r\x04");
    // So the editor ends, here for the last time.
    for _ in 0..3 {
        terminal.see("\x1b[?2004l");
    }
    terminal.type_keys("\x03");
    terminal.see("cancelled (perhaps executed");
    // Now the end of the session is waited for.
    while !terminal.is_given_back() {}
    terminal.type_keys("\x03");
    terminal.see("interrupted (perhaps executed");
    assert_eq!(terminal.ended(), 130);
}

#[test]
fn cancels_any_amount_typed_ahead() {
    let (server, mut terminal) = at_prompt("echo");
    server.signal("STOP");
    terminal.type_keys(&"1\r".repeat(100));
    for _ in 0..100 {
        terminal.see("\x1b[?2004l");
    }
    terminal.see_prompt();
    terminal.type_keys("\x03");
    terminal.see("cancelled (perhaps executed");
    server.signal("CONT");
    terminal.type_keys("\"still there\"\r");
    // Typed, and answered.
    terminal.see("still there");
    terminal.see("still there");
    terminal.type_keys("\x04");
    assert_eq!(terminal.ended(), 0);
}

#[test]
fn signal_at_password_prompt_restores_terminal() {
    for (signal, code) in [("TERM", 143), ("HUP", 129)] {
        let mut terminal = Terminal::start(&client(&["ping", "chan://localhost:1/s?system"]));
        terminal.see("Password for ");
        assert!(!terminal.shows_typing());
        terminal.signal(signal);
        assert_eq!(terminal.ended(), code);
    }
    let folder = Folder::new();
    let terminal = passwd(&folder);
    assert!(!terminal.shows_typing());
    terminal.signal("TERM");
    assert_eq!(terminal.ended(), 143);
}

#[test]
fn signal_ends_repl_and_restores_terminal() {
    let server = Server::start(NAMES_AND_ECHO);
    for (signal, code) in [("TERM", 143), ("HUP", 129)] {
        let mut terminal = logged_in(&server, "repl", "echo", &[]);
        terminal.see_prompt();
        terminal.signal(signal);
        terminal.see(&format!("ended by SIG{signal}"));
        assert_eq!(terminal.ended(), code);
    }
}

#[test]
fn quit_and_exit_leave_a_conversation() {
    let server = Server::start(NAMES_AND_ECHO);
    for word in ["quit", "exit"] {
        let mut terminal = logged_in(&server, "repl", "echo", &[]);
        terminal.see_prompt();
        terminal.type_keys(&format!("{word}\r"));
        assert_eq!(terminal.ended(), 0);
    }
}

#[test]
fn a_terminal_without_cursor_holds_a_conversation() {
    let server = Server::start(NAMES_AND_ECHO);
    let mut repl = client(&["repl", server.url("echo")]);
    repl.env("TERM", "dumb");
    let mut terminal = Terminal::start(&repl);
    terminal.see("Password for ");
    terminal.type_keys(&format!("{PASSWORD}\n"));
    // Typed while nothing is shown, and answered.
    terminal.type_keys("[41]\n");
    terminal.see("[41]");
    // Typed, and answered.
    terminal.type_keys("[42]\n");
    terminal.see("[42]");
    terminal.see("[42]");
    // A person has seen what failed: it is none of the exit code.
    terminal.type_keys("{bad\n");
    terminal.see("- ");
    terminal.type_keys("\x04");
    assert_eq!(terminal.ended(), 0);
}

#[test]
fn a_server_that_dies_gives_the_terminal_back() {
    let (server, mut terminal) = at_prompt_with("echo", &["--resume", "0"]);
    server.signal("KILL");
    terminal.see("chan-client: the connection was lost");
    assert_eq!(terminal.ended(), 9);
}

#[test]
fn outage_is_shown_above_prompt() {
    let server = Server::start(NAMES_AND_ECHO);
    let proxy = Proxy::before(server.url("echo"));
    let mut terminal = Terminal::start(&client(&["repl", &proxy.url(server.url("echo"))]));
    terminal.see("Password for ");
    terminal.type_keys(&format!("{PASSWORD}\n"));
    terminal.see_prompt();
    proxy.redirect(&nobody());
    proxy.cut();
    terminal.see("- reconnecting…");
    // The call waits for a connection.
    terminal.type_keys("\"hello\"\r");
    proxy.redirect(server.url("echo"));
    terminal.see("- reconnected");
    terminal.see("\"hello\"");
    terminal.see_prompt();
    terminal.type_keys("\x04");
    assert_eq!(terminal.ended(), 0);
}

#[test]
fn drain_is_shown_above_prompt() {
    let (server, mut terminal) = at_prompt_with("echo", &[]);
    server.signal("TERM");
    terminal.see("- the server is stopping");
    // The session goes on meanwhile.
    terminal.type_keys("\"hello\"\r");
    terminal.see("\"hello\"");
    terminal.see_prompt();
    terminal.type_keys("\x04");
    assert_eq!(terminal.ended(), 0);
}

#[test]
fn a_long_wait_is_explained() {
    let server = Server::start(NAMES_AND_ECHO);
    server.signal("STOP");
    let mut terminal = logged_in(&server, "call", "echo", &["1"]);
    terminal.see("setting up TLS…");
    terminal.type_keys("\x03");
    terminal.see("interrupted (not executed)");
    assert_eq!(terminal.ended(), 130);
}
