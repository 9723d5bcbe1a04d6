//! The completion scripts in the real shells.

use std::{fs, process::Command};

use chan_tests::{Folder, Terminal, available, program, run};

/// A line to complete, and the option that its last word begins.
const LINES: [(&str, &str, &str); 2] = [
    ("chan-client", "chan-client call --passw", "--password-file"),
    ("chan-server", "chan-server serve --conf", "--config"),
];

/// The script for a shell, in a file.
fn script(folder: &Folder, name: &str, shell: &str) -> String {
    let (code, script, complaint) = run(Command::new(program(name)).args(["completions", shell]));
    assert_eq!(code, Some(0), "{complaint}");
    folder.write(&format!("{name}.{shell}"), &script).display().to_string()
}

#[test]
fn bash_completes_options_of_subcommands() {
    if !available("bash") {
        return;
    }
    let folder = Folder::new();
    for (name, line, option) in LINES {
        let script = script(&folder, name, "bash");
        // As bash does when the user presses the tabulator.
        let complete = format!(
            "source {script}; COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=({line}); COMP_CWORD=2; \
             function=$(complete -p {name} | sed 's/.*-F \\([^ ]*\\).*/\\1/'); \
             $function {name} ${{COMP_WORDS[2]}} ${{COMP_WORDS[1]}}; echo \"${{COMPREPLY[@]}}\""
        );
        let (code, out, complaint) = run(Command::new("bash").args(["-c", &complete]));
        assert_eq!((code, out.trim()), (Some(0), option), "{complaint}");
    }
}

/// With the package `bash-completion`, which loads a script when its program is first completed.
#[test]
fn bash_completes_with_its_completion_package() {
    const FRAMEWORK: &str = "/usr/share/bash-completion/bash_completion";
    if !available("bash") || !available(FRAMEWORK) {
        return;
    }
    let folder = Folder::new();
    let place = folder.path().join("bash-completion/completions");
    fs::create_dir_all(&place).unwrap();
    for (name, line, option) in LINES {
        fs::rename(script(&folder, name, "bash"), place.join(name)).unwrap();
        let mut bash = Command::new("bash");
        bash.args(["--norc", "--noprofile", "-i"]).env("HOME", folder.path()).env("PS1", "ready> ");
        let path = program(name).parent().unwrap().display().to_string();
        bash.env("XDG_DATA_HOME", folder.path()).env("PATH", format!("{path}:{}", env!("PATH")));
        let mut terminal = Terminal::start(&bash);
        terminal.see("ready> ");
        terminal.type_keys(&format!("source {FRAMEWORK}; echo 'do''ne'\r"));
        terminal.see("done");
        terminal.see("ready> ");
        terminal.type_keys(&format!("{line}\t"));
        terminal.see(option);
    }
}

#[test]
fn fish_completes_options_of_subcommands() {
    if !available("fish") {
        return;
    }
    let folder = Folder::new();
    for (name, line, option) in LINES {
        let script = script(&folder, name, "fish");
        let complete = format!("source {script}; complete -C '{line}'");
        let mut fish = Command::new("fish");
        fish.args(["--no-config", "-c", &complete]).env("HOME", folder.path());
        let (code, out, complaint) = run(&mut fish);
        assert_eq!((code, out.split_whitespace().next()), (Some(0), Some(option)), "{complaint}");
    }
}

#[test]
fn zsh_completes_options_of_subcommands() {
    if !available("zsh") {
        return;
    }
    let folder = Folder::new();
    for (name, line, option) in LINES {
        let script = script(&folder, name, "zsh");
        let mut zsh = Command::new("zsh");
        zsh.args(["-f", "-i"]).env("HOME", folder.path()).env("PS1", "ready> ");
        let mut terminal = Terminal::start(&zsh);
        terminal.see("ready> ");
        terminal.type_keys(&format!(
            "autoload -Uz compinit && compinit -u -D && source {script}; echo 'do''ne'\r"
        ));
        terminal.see("done");
        terminal.see("ready> ");
        terminal.type_keys(&format!("{line}\t"));
        terminal.see(option);
    }
}
