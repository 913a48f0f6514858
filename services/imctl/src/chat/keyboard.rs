//! Where lines come from and go to: an editor on a terminal, plain lines otherwise.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use im_cli::failure::Failure;
use im_cli::output::Output;
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use rustyline::completion::{Completer, Pair};
use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{Context, Editor, ExternalPrinter, Helper};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};
use tokio::sync::mpsc;

use super::command::HELP;

/// Something from the keyboard.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    Line(String),
    /// A message is being written.
    Typing,
    /// No more lines.
    End,
}

/// Words that the tab key completes.
pub(crate) type Words = Arc<Mutex<Vec<String>>>;

/// The two ends of the conversation with the person.
pub(crate) struct Keyboard {
    typed: mpsc::UnboundedReceiver<Typed>,
    prompts: Option<std::sync::mpsc::Sender<String>>,
    printer: Option<Box<dyn FnMut(String) -> rustyline::Result<()> + Send>>,
    output: Output,
    words: Words,
    /// As the terminal was, to be put back whatever the editor is doing at the end.
    before: Option<Termios>,
}

impl Keyboard {
    /// An editor where both ends are a terminal, else plain lines.
    pub(crate) fn open(plain: bool) -> Result<Self, Failure> {
        let (send, typed) = mpsc::unbounded_channel();
        let words = Words::default();
        let mut keyboard = Self {
            typed,
            prompts: None,
            printer: None,
            output: Output::stdout(),
            words,
            before: None,
        };
        if plain || !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            tokio::spawn(read_lines(send));
            return Ok(keyboard);
        }
        keyboard.before = tcgetattr(io::stdin()).ok();
        let unusable = |error: ReadlineError| Failure::from(io::Error::other(error));
        let mut editor: Editor<Assistant, DefaultHistory> = Editor::new().map_err(unusable)?;
        editor.set_auto_add_history(true);
        editor.set_helper(Some(Assistant {
            typing: send.clone(),
            words: Arc::clone(&keyboard.words),
        }));
        let mut printer = editor.create_external_printer().map_err(unusable)?;
        keyboard.printer = Some(Box::new(move |text| printer.print(text)));
        let (prompts, prompted) = std::sync::mpsc::channel::<String>();
        keyboard.prompts = Some(prompts);
        thread::Builder::new()
            .name("keyboard".to_owned())
            .spawn(move || edit(editor, &prompted, &send))?;
        Ok(keyboard)
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.prompts.is_some()
    }

    /// Asks for the next line; a terminal shows the prompt.
    pub(crate) fn prompt(&self, prompt: String, words: Vec<String>) {
        *self.words.lock().unwrap_or_else(PoisonError::into_inner) = words;
        if let Some(prompts) = &self.prompts {
            // Where the editor has ended there is nobody to prompt.
            let _ = prompts.send(prompt);
        }
    }

    pub(crate) async fn next(&mut self) -> Typed {
        self.typed.recv().await.unwrap_or(Typed::End)
    }

    /// Shows a line above the one that is being edited.
    pub(crate) fn print(&mut self, line: &str) -> Result<(), Failure> {
        match &mut self.printer {
            Some(print) => {
                print(format!("{line}\n")).map_err(|error| io::Error::other(error).into())
            }
            None => self.output.line(line),
        }
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // The editor may be waiting in raw mode.
            let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, before);
        }
    }
}

async fn read_lines(typed: mpsc::UnboundedSender<Typed>) {
    let mut lines = BufReader::new(stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if typed.send(Typed::Line(line)).is_err() {
            return;
        }
    }
    let _ = typed.send(Typed::End);
}

fn edit(
    mut editor: Editor<Assistant, DefaultHistory>,
    prompts: &std::sync::mpsc::Receiver<String>,
    typed: &mpsc::UnboundedSender<Typed>,
) {
    while let Ok(prompt) = prompts.recv() {
        let line = match editor.readline(&prompt) {
            Ok(line) => line,
            Err(_) => break,
        };
        let is_said = !line.starts_with('/') || line.starts_with("//") || line.starts_with("/me ");
        if is_said && !line.trim().is_empty() {
            let columns = editor
                .dimensions()
                .map_or(80, |(columns, _)| usize::from(columns.max(1)));
            erase((prompt.chars().count() + line.chars().count()) / columns + 1);
        }
        if typed.send(Typed::Line(line)).is_err() {
            return;
        }
    }
    let _ = typed.send(Typed::End);
}

/// Takes the line that was typed off the screen: it comes back as a message once the server has it.
fn erase(rows: usize) {
    let mut out = io::stdout();
    let up = "\x1b[1A\x1b[2K".repeat(rows);
    // A screen that cannot be tidied is left as it is.
    let _ = out
        .write_all(up.as_bytes())
        .and_then(|()| out.write_all(b"\r"))
        .and_then(|()| out.flush());
}

/// Completes commands and rooms, and notices that something is being written.
struct Assistant {
    typing: mpsc::UnboundedSender<Typed>,
    words: Words,
}

impl Hinter for Assistant {
    type Hint = String;

    fn hint(&self, line: &str, _: usize, _: &Context<'_>) -> Option<String> {
        if line.chars().count() > 1 && !line.starts_with('/') {
            let _ = self.typing.send(Typed::Typing);
        }
        None
    }
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let start = line[..pos].rfind(' ').map_or(0, |space| space + 1);
        let word = &line[start..pos];
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let commands = HELP
            .iter()
            .filter_map(|(command, _)| command.split(' ').next())
            .map(str::to_owned);
        let candidates: Vec<String> = if start == 0 {
            commands.collect()
        } else {
            words.clone()
        };
        let pair = |word: String| Pair {
            display: word.clone(),
            replacement: word,
        };
        Ok((
            start,
            candidates
                .into_iter()
                .filter(|candidate| candidate.starts_with(word))
                .map(pair)
                .collect(),
        ))
    }
}

impl Highlighter for Assistant {}
impl Validator for Assistant {}
impl Helper for Assistant {}
