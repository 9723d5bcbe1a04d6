//! Every file in `conf/rejected` has one mistake, and is refused for it: at its line, and with the words that its
//! first line expects. The sample configuration has none.

use std::fs;
use std::path::{Path, PathBuf};

use chan_server::config::{Config, ConfigError};
use chan_server::modules::Modules;
use lib_chan::Limits;
use lib_chan::secret::{PrivateKey, Secret};

/// A copy of `conf`, in which every file has the mode that it should have.
struct Conf(tempfile::TempDir);

impl Conf {
    fn copy() -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        for file in [tomls(&conf("rejected")), tomls(&conf("warned"))].concat() {
            let text = fs::read_to_string(&file).unwrap();
            let mode = header(&text, "mode").map_or(0o600, |mode| u32::from_str_radix(mode, 8).unwrap());
            this.write(file.file_name().unwrap().to_str().unwrap(), text.as_bytes(), mode);
        }
        this.write("good.password", b"correct horse battery staple\n", 0o600);
        this.write("shared.password", b"correct horse battery staple\n", 0o644);
        this.write("short.password", b"hunter2\n", 0o600);
        this.write("empty.password", b"\n", 0o600);
        this.write("latin1.password", b"tr\xe8s bon mot de passe\n", 0o600);
        this.write("long.password", &[b'x'; 2000], 0o600);
        this.write("shared.verifier", b"whatever it is\n", 0o604);
        this.write(
            "some.verifier",
            b"$chan$argon2id$v=19$m=65536,t=3,p=1$AgICAgICAgICAgICAgICAg$x$y\n",
            0o600,
        );
        let key = PrivateKey::from_seed(Secret::new([5; 32])).unwrap();
        this.write("client.key", key.to_file_contents().as_bytes(), 0o600);
        this.write("client.pub", key.public_key().to_string().as_bytes(), 0o600);
        this.write("bom.password", "\u{feff}correct horse battery staple\n".as_bytes(), 0o600);
        this.write("lines.password", b"correct horse battery staple\nmore\n", 0o600);
        this.write_keys();
        this
    }

    fn write_keys(&self) {
        let pair = rcgen::KeyPair::generate().unwrap();
        let other = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        self.write("server.pem", params.self_signed(&pair).unwrap().pem().as_bytes(), 0o644);
        let mut authority = params.clone();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        self.write("authority.pem", authority.self_signed(&pair).unwrap().pem().as_bytes(), 0o644);
        let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIH\n-----END ENCRYPTED PRIVATE KEY-----\n";
        self.write("encrypted.key", encrypted, 0o600);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        self.write("expired.pem", params.self_signed(&pair).unwrap().pem().as_bytes(), 0o644);
        self.write("server.key", pair.serialize_pem().as_bytes(), 0o600);
        self.write("shared.key", pair.serialize_pem().as_bytes(), 0o604);
        self.write("other.key", other.serialize_pem().as_bytes(), 0o600);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, contents: &[u8], mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        fs::write(self.path(name), contents).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn conf(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf").join(name)
}

fn tomls(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.iter().all(|file| file.extension().is_some_and(|extension| extension == "toml")));
    files.sort();
    files
}

/// What a comment at the top says.
fn header<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let comments = text.lines().map_while(|line| line.strip_prefix("# "));
    comments
        .filter_map(|comment| comment.split_once(": "))
        .find(|(found, _)| *found == key)
        .map(|(_, value)| value)
}

/// A problem as the files expect it: without the directory, which is another one each time.
fn said(error: &ConfigError, directory: &Path) -> Vec<String> {
    let directory = format!("{}/", directory.display());
    let lines = error.problems.iter().map(|problem| format!("{}: {}", problem.line, problem.text));
    lines.map(|line| line.replace(&directory, "")).collect()
}

#[tokio::test]
async fn sample_states_every_limit_with_its_default() {
    let (conf, modules) = (Conf::copy(), Modules::standard());
    let sample = fs::read_to_string(self::conf("chan-server.toml")).unwrap();
    let tables: Vec<_> = sample.lines().skip_while(|line| *line != "# [limits]").map(in_use).collect();
    // `Debug` names every field.
    for field in format!("{:?}", Limits::default()).split(['{', ',']).filter_map(|part| part.split_once(": "))
    {
        let key = field.0.trim();
        assert!(tables.iter().any(|line| line.starts_with(&format!("{key} = "))), "{key}");
    }
    conf.write("chan-server.toml", format!("{sample}\n{}", tables.join("\n")).as_bytes(), 0o644);
    conf.write("name_server.password", b"correct horse battery staple\n", 0o600);
    let config = Config::load(&conf.path("chan-server.toml"), &modules).unwrap();
    assert_eq!(config.limits(), &Limits::default());
}

#[tokio::test]
async fn each_rejected_file_has_its_mistake() {
    let (conf, modules) = (Conf::copy(), Modules::standard());
    let files = tomls(&self::conf("rejected"));
    let mut wrong = Vec::new();
    for file in &files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let expected = header(&fs::read_to_string(file).unwrap(), "expect").expect(name).to_owned();
        let problems = match Config::load(&conf.path(name), &modules) {
            Ok(_) => vec!["nothing".into()],
            Err(error) => said(&error, conf.0.path()),
        };
        if problems != [expected.clone()] {
            wrong.push(format!(
                "{name}\n  expected {expected}\n  found    {}",
                problems.join("\n           ")
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), files.len(), wrong.join("\n"));
    assert!(files.len() >= 40, "only {} files", files.len());
}

#[tokio::test]
async fn warns_of_parameters_some_clients_refuse() {
    let (conf, modules) = (Conf::copy(), Modules::standard());
    let files = tomls(&self::conf("warned"));
    assert!(!files.is_empty());
    for file in &files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let expected = header(&fs::read_to_string(file).unwrap(), "expect").expect(name).to_owned();
        let config = Config::load(&conf.path(name), &modules).unwrap();
        let problems = config.warnings().iter().map(|warning| warning.problem.clone()).collect();
        let said = said(&ConfigError { file: file.clone(), problems }, conf.0.path());
        assert_eq!(said, [expected], "{name}");
    }
}

#[tokio::test]
async fn sample_is_valid_with_password_file() {
    let (conf, modules) = (Conf::copy(), Modules::standard());
    let sample = fs::read(self::conf("chan-server.toml")).unwrap();
    conf.write("chan-server.toml", &sample, 0o644);
    let missing = said(&Config::load(&conf.path("chan-server.toml"), &modules).unwrap_err(), conf.0.path());
    assert!(matches!(&missing[..], [one] if one.contains("there is no name_server.password")), "{missing:?}");
    conf.write("name_server.password", b"correct horse battery staple\n", 0o600);
    let config = Config::load(&conf.path("chan-server.toml"), &modules).unwrap();
    let services: Vec<_> =
        config.services().iter().map(|service| (service.name().as_str(), service.mfa())).collect();
    assert_eq!(services, [("name_server", "name_server:start_me_up")]);
}

#[tokio::test]
async fn sample_is_valid_with_all_lines() {
    let (conf, modules) = (Conf::copy(), Modules::standard());
    let sample = fs::read_to_string(self::conf("chan-server.toml")).unwrap();
    let key = "ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let in_use = sample.replace("ed25519:…", key).lines().map(in_use).collect::<Vec<_>>().join("\n");
    conf.write("chan-server.toml", in_use.as_bytes(), 0o644);
    let password = b"correct horse battery staple\n";
    conf.write("name_server.password", password, 0o600);
    conf.write("mike.password", password, 0o600);
    conf.write("office-ssh.password", password, 0o600);
    conf.write("office-ssh-providers.password", password, 0o600);
    let config = Config::load(&conf.path("chan-server.toml"), &modules);
    let missing = said(&config.unwrap_err(), conf.0.path());
    assert!(matches!(&missing[..], [one] if one.contains("there is no redis.verifier")), "{missing:?}");
}

/// A line of the sample without its comment sign, if what is commented out is a setting.
fn in_use(line: &str) -> &str {
    let setting = |text: &&str| {
        text.starts_with('[') || text.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
    };
    match line.strip_prefix("# ").filter(setting) {
        Some(port) if port.starts_with("port") => line,
        Some(setting) => setting,
        None => line,
    }
}

#[tokio::test]
async fn accepts_weak_password_if_marked_weak() {
    let (conf, modules) = (Conf::copy(), Modules::standard());
    let text =
        "port = 0\n[[service]]\nname = 'echo'\npassword = 'hunter2'\nweak = true\nmfa = ['echo', 'start']";
    conf.write("weak.toml", text.as_bytes(), 0o600);
    Config::load(&conf.path("weak.toml"), &modules).unwrap();
}

#[tokio::test]
async fn clients_may_have_own_credentials() {
    let modules = Modules::standard();
    let key = "ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let text = format!(
        "port = 0\n[[service]]\nname = 'echo'\npassword = 'correct horse battery'\nmfa = ['echo', 'start']\n\
         [[service.client]]\nname = 'joe'\nkey = '{key}'\n\
         [[service.client]]\nname = 'mike'\nkey = '{key}'\ndisabled = true\n"
    );
    let config = Config::parse(&text, Path::new("inline"), &modules).unwrap();
    let clients = config.services()[0].clients().iter();
    let clients: Vec<_> = clients.map(|client| (client.id().as_str(), client.disabled())).collect();
    assert_eq!(clients, [("", false), ("joe", false), ("mike", true)]);
}

#[tokio::test]
async fn reports_all_mistakes_in_order_of_lines() {
    let modules = Modules::standard();
    let text = "prot = 1\nport = 0\n[[service]]\nname = 'my echo'\nmfa = ['eco', 'start']\n[limits]\nmax_calls = 0\n";
    let error = Config::parse(text, Path::new("c.toml"), &modules).unwrap_err();
    let lines: Vec<_> = error.problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [1, 3, 4, 5, 7]);
    assert!(error.to_string().lines().all(|line| line.starts_with("c.toml:")), "{error}");
}

#[tokio::test]
async fn no_message_shows_a_secret() {
    let modules = Modules::standard();
    for text in [
        "password = 'hunter2-secret",
        "password = 'hunter2-secret' password",
        "pasword = 'hunter2-secret'",
        "password = 'hunter2-secret'\npassword = 'hunter2-secret'",
        "[[service]]\npassword = ['hunter2-secret']",
        "[[service]]\nverifier = 'hunter2-secret'",
        "[[service]]\nkey = 'hunter2-secret'",
    ] {
        let error = Config::parse(text, Path::new("c.toml"), &modules).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_named() {
    let modules = Modules::standard();
    let error = Config::load(Path::new("/nowhere/chan-server.toml"), &modules).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/chan-server.toml: cannot be read: "), "{error}");
    let (conf, link) = (Conf::copy(), "link.toml");
    std::os::unix::fs::symlink("/nowhere/chan-server.toml", conf.path(link)).unwrap();
    let error = Config::load(&conf.path(link), &modules).unwrap_err().to_string();
    assert!(error.contains("is a link to /nowhere/chan-server.toml, which cannot be read: "), "{error}");
}

/// The server names the keys that it knows where it meets one that it does not.
#[tokio::test]
async fn sample_shows_every_key_that_there_is() {
    let text = "qqqqqqqq = 1\nlisten = ['127.0.0.1:0']\n[tls]\nqqqqqqqq = 1\n[limits]\nqqqqqqqq = 1\n\
                [gate]\nqqqqqqqq = 1\n[metrics]\nqqqqqqqq = 1\n\
                [[service]]\nqqqqqqqq = 1\n[[service.client]]\nqqqqqqqq = 1\n";
    let error = Config::parse(text, Path::new("c.toml"), &Modules::standard()).unwrap_err();
    let known: Vec<_> =
        error.problems.iter().filter_map(|problem| problem.text.split_once("; expected ")).collect();
    assert_eq!(known.len(), 7, "{error}");
    let sample = fs::read_to_string(conf("chan-server.toml")).unwrap();
    let mut missing = Vec::new();
    for key in known.iter().flat_map(|(_, keys)| keys.split(", ")) {
        let shown =
            [format!("{key} = "), format!("[{key}]"), format!("[[{key}]]"), format!("[[service.{key}]]")];
        if !shown.iter().any(|shown| sample.contains(shown)) {
            missing.push(key);
        }
    }
    assert_eq!(missing, [""; 0], "not in conf/chan-server.toml");
}
