//! One TCP connection: reads and executes commands, and sends responses and messages.
//!
//! One task per connection runs a loop: execute the received commands, take messages if there is room, then wait until
//! bytes arrive, bytes can be written, messages are available, or a timer fires. Reading never waits for writing: a
//! consumer that stops reading can still send its FINs. A connection that never has to wait yields when its [`Turn`] is
//! over, so that no client can keep a thread from the others.
//!
//! - [`listener`]: accepts connections, reads the magic
//! - [`state`]: pure; which command is legal when
//! - [`input`]: pure; bytes not decoded yet
//! - `identify`: IDENTIFY, negotiation
//! - `auth`: AUTH, and what it permits
//! - [`publish`]: PUB, MPUB, DPUB, with and without headers
//! - [`consume`]: SUB, RDY, FIN, REQ, TOUCH, CLS
//! - [`transport`]: the byte stream, its upgrades, closing

mod auth;
pub mod consume;
pub mod identify;
pub mod input;
pub mod listener;
pub mod publish;
pub mod state;
pub mod transport;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use nsq_daemon::tls::ServerTls;
use nsq_daemon::turn::{TURN_BYTES, Turn};
use nsq_protocol::{
    Checked, Command, Decoded, ErrorCode, IdentifyReply, Limits, ProtocolError, Verb, command_name,
    decode_from, truncated,
};
use tokio::time::Sleep;

use self::auth::AuthSession;
use self::consume::{Place, Subscription};
use self::identify::Settings;
use self::input::Input;
use self::state::{ConnectionState, Permit};
use self::transport::Transport;
use crate::auth::Authenticator;
use crate::channel::signal::{Call, Working};
use crate::client_info::ClientInfo;
use crate::clock::{self, Nanos};
use crate::delivery::{Output, deliver};
use crate::locality::Location;
use crate::producers::{Producer, Producers};
use crate::topic::Topic;
use crate::topic::registry::Registry;

/// Shared by all connections.
pub struct ConnectionContext {
    pub registry: Arc<Registry>,
    /// Limits of commands.
    pub limits: Limits,
    /// Limits and defaults of IDENTIFY.
    pub identify: nsq_protocol::IdentifyLimits,
    /// The reply to IDENTIFY, except for negotiated values.
    pub reply: IdentifyReply,
    /// The location of this node; `None` without topology-aware delivery.
    pub location: Option<Location>,
    /// Certificates; `None` if TLS is not offered.
    pub tls: Option<Arc<ServerTls>>,
    /// Whether only IDENTIFY is legal without TLS.
    pub tls_required: bool,
    /// Checks secrets; `None` if AUTH is disabled.
    pub auth: Option<Arc<Authenticator>>,
    /// Connections that have published.
    pub producers: Arc<Producers>,
}

/// Why a connection ends.
#[derive(Debug)]
pub enum End {
    /// The client closed its side, sends nothing or reads nothing; or its channel is closed.
    Close,
    /// The client made an error. nsqd sends this error to it.
    Error(ProtocolError),
    /// The socket failed.
    Io(io::Error),
}

impl From<ProtocolError> for End {
    fn from(error: ProtocolError) -> Self {
        End::Error(error)
    }
}

/// The event that ended [`Connection::wait`].
enum Event {
    /// Received commands are still to be executed.
    Input,
    /// Bytes were received.
    Read(usize),
    /// The client sends no more.
    ReadEnd,
    /// Bytes were written.
    Written,
    /// The channel may have messages, or is closed.
    Woken,
    /// A deadline or a heartbeat.
    Timer,
}

/// A connection; see the module.
pub struct Connection {
    context: Arc<ConnectionContext>,
    transport: Transport,
    info: Arc<ClientInfo>,
    state: ConnectionState,
    settings: Settings,
    /// Set by AUTH.
    auth_session: Option<Box<AuthSession>>,
    input: Input,
    /// Number of bytes in `input` that are needed before decoding can make progress.
    needed: usize,
    /// Checks that need not be repeated on the unfinished command in `input`.
    checked: Checked,
    /// A turn ended before all commands in `input` were executed.
    has_commands: bool,
    turn: Turn,
    /// A turn has ended: reading must not be tried first again.
    reads_last: bool,
    output: Output,
    subscription: Option<Subscription>,
    /// The topic last published to: most connections publish to only one.
    last_topic: Option<Arc<Topic>>,
    /// Set by the first publish.
    producer: Option<Producer>,
    /// When the first publish of the commands being executed began.
    publish_began: Option<Nanos>,
    /// There may be messages to take.
    may_take: bool,
    /// When the last complete command was executed. Liveness is measured from it.
    last_command_at: Nanos,
    next_heartbeat: Nanos,
    /// Since when no output could be written.
    blocked_since: Option<Nanos>,
    /// Bytes were read or written since the last idle check.
    has_moved: bool,
    /// Time of the next idle check; `None` while there is no memory to free.
    idle_check_at: Option<Nanos>,
    timer: Pin<Box<Sleep>>,
}

impl Connection {
    /// Creates a connection whose magic has been read.
    pub fn new(
        context: Arc<ConnectionContext>,
        transport: Transport,
        info: Arc<ClientInfo>,
        input: Input,
    ) -> Self {
        let settings = Settings::default_for(&context.identify);
        let now = clock::monotonic();
        let mut connection = Connection {
            context,
            transport,
            info,
            state: ConnectionState::Init,
            auth_session: None,
            input,
            needed: 1,
            checked: Checked::default(),
            has_commands: false,
            turn: Turn::default(),
            reads_last: false,
            output: Output::default(),
            subscription: None,
            last_topic: None,
            producer: None,
            publish_began: None,
            may_take: false,
            last_command_at: now,
            next_heartbeat: now + settings.heartbeat_interval.unwrap_or(0),
            blocked_since: None,
            has_moved: false,
            idle_check_at: None,
            timer: Box::pin(tokio::time::sleep_until(clock::instant(now).into())),
            settings,
        };
        connection.arm_timer(now);
        connection
    }

    /// Serves the connection until it ends, then closes it.
    pub async fn run(mut self, log_end: impl FnOnce(&End)) {
        let mut place: Option<Place> = None;
        let end = loop {
            if let Err(end) = self.work(place.as_ref()).await {
                break end;
            }
            if place.is_none() {
                place = self.subscription.as_ref().map(Subscription::place);
            }
            if let Err(end) = self.take_messages() {
                break end;
            }
            self.reads_last = self.turn.pass_on().await;
            match self.wait().await {
                Ok(Event::Input) => {}
                Ok(Event::Read(count)) => {
                    self.turn.spend_bytes(count);
                    self.context.registry.engine().metrics().received_bytes.add(count as u64);
                    self.input.filled(count);
                }
                Ok(Event::ReadEnd) => break self.truncated_end(),
                Ok(Event::Written | Event::Woken) => {}
                Ok(Event::Timer) => {
                    if let Err(end) = self.on_timer() {
                        break end;
                    }
                }
                Err(error) => break End::Io(error),
            }
        };
        drop(place);
        if let Some(subscription) = self.subscription.take() {
            subscription.leave(&self.context.registry).await;
        }
        drop(self.producer.take());
        if let End::Error(error) = &end {
            self.output.error(error);
        }
        // Log before closing, which takes a second if the client does not close, and may be cut short.
        log_end(&end);
        self.transport.close(self.output.pending(), matches!(end, End::Io(_))).await;
    }

    /// Executes complete received commands until the turn is over. While one of them waits for something, the channel
    /// skips this consumer.
    async fn work(&mut self, place: Option<&Place>) -> Result<(), End> {
        let Some(place) = place else { return self.execute_input().await };
        let work = std::pin::pin!(self.execute_input());
        Working::new(&place.signal, work, || place.channel.pass_on(place.key)).await
    }

    /// Takes messages if the channel has called or there is room again.
    fn take_messages(&mut self) -> Result<(), End> {
        let Some(subscription) = &self.subscription else { return Ok(()) };
        match subscription.signal.answer() {
            Call::None => {}
            Call::Take => self.may_take = true,
            Call::Close => return Err(End::Close),
        }
        if self.may_take {
            let engine = self.context.registry.engine();
            let with_headers = self.settings.headers;
            self.may_take =
                deliver(&subscription.channel, subscription.key, with_headers, &mut self.output, engine);
        }
        Ok(())
    }

    async fn execute_input(&mut self) -> Result<(), End> {
        if self.input.data().len() < self.needed {
            return Ok(());
        }
        self.needed = 1;
        self.has_commands = false;
        // The buffer is taken out of `self` while commands that borrow from it are executed.
        let mut input = std::mem::take(&mut self.input);
        let result = self.execute_all(&mut input).await;
        self.input = input;
        result
    }

    async fn execute_all(&mut self, input: &mut Input) -> Result<(), End> {
        let context = self.context.clone();
        let mut any = false;
        while !input.is_empty() {
            if self.turn.is_over() {
                self.has_commands = true;
                break;
            }
            self.turn.spend_commands(1);
            if context.tls_required && !self.transport.is_tls() {
                check_without_tls(input.data(), &context.limits)?;
            }
            match decode_from(input.data(), std::mem::take(&mut self.checked), &context.limits) {
                Decoded::Command { command, consumed } => {
                    any = true;
                    let verb = command.verb();
                    match self.permit(verb) {
                        Permit::Yes => {
                            let consumed = self.execute(command, consumed, input.data()).await?;
                            input.consume(consumed);
                            if matches!(verb, Verb::Identify | Verb::Auth) {
                                // Later commands are seldom as long.
                                input.shrink();
                            }
                        }
                        Permit::Ignore => input.consume(consumed),
                        Permit::No(error) => return Err(error.into()),
                    }
                }
                Decoded::Incomplete { verb, needed, claimed, checked } => {
                    if let Some(Permit::No(error)) = verb.map(|verb| self.permit(verb)) {
                        return Err(error.into());
                    }
                    self.authorize_before_body(verb, input.data()).await?;
                    input.expect(claimed);
                    self.needed = needed;
                    self.checked = checked;
                    break;
                }
                Decoded::Invalid { verb, error, consumed } => match verb.map(|verb| self.permit(verb)) {
                    Some(Permit::Ignore) => input.consume(consumed),
                    Some(Permit::No(illegal)) => return Err(illegal.into()),
                    Some(Permit::Yes) | None => {
                        self.authorize_before_body(verb, input.data()).await?;
                        return Err(error.into());
                    }
                },
                Decoded::LineTooLong => return Err(End::Close),
            }
        }
        if any {
            self.last_command_at = clock::monotonic();
            if let Some(began) = self.publish_began.take() {
                let metrics = context.registry.engine().metrics();
                metrics.tcp_publishes.record_ns(self.last_command_at.saturating_sub(began));
            }
        }
        Ok(())
    }

    /// Whether a command is legal now. This is checked before its parameters.
    fn permit(&self, verb: Verb) -> Permit {
        if verb == Verb::Sub
            && self.state == ConnectionState::Init
            && self.settings.heartbeat_interval.is_none()
        {
            return Permit::No(ProtocolError::new(ErrorCode::Invalid, "cannot SUB with heartbeats disabled"));
        }
        if verb == Verb::Rej && !self.settings.reject {
            return Permit::No(ProtocolError::new(ErrorCode::Invalid, "invalid command REJ"));
        }
        self.state.permit(verb)
    }

    /// Executes a command, and the following ones that belong to the same batch. Returns the bytes used. `data` starts
    /// with the command, which took `consumed` bytes.
    async fn execute<'a>(
        &mut self,
        command: Command<'a>,
        consumed: usize,
        data: &'a [u8],
    ) -> Result<usize, End> {
        match command {
            Command::Pub { .. }
            | Command::Mpub { .. }
            | Command::Dpub { .. }
            | Command::PubExt { .. }
            | Command::MpubExt { .. }
            | Command::DpubExt { .. } => {
                return self.publish_run(command, consumed, data).await;
            }
            Command::Fin { .. } | Command::Req { .. } | Command::Touch { .. } | Command::Rej { .. } => {
                // Measured: decoding a FIN again costs fewer instructions than handing it over.
                return Ok(self.acknowledge_run(data));
            }
            Command::Rdy { count } => self.set_ready_count(count),
            Command::Nop => {}
            Command::Sub { topic, channel } => self.subscribe(&topic, &channel).await?,
            Command::Identify { body } => {
                if self.identify(body).await? {
                    // Drop the bytes after it: the client sent them too early, in the old form of the stream.
                    return Ok(data.len());
                }
            }
            Command::Cls => self.close_subscription(),
            Command::Auth { secret } => self.authenticate(secret).await?,
        }
        Ok(consumed)
    }

    /// Waits for the first event. If several occur, the next calls report the others.
    async fn wait(&mut self) -> io::Result<Event> {
        self.schedule_idle_check();
        // Messages alone never reach this limit. Clients that pipeline commands without reading the responses do.
        let max_pending_bytes = MAX_PENDING_BYTES + self.context.limits.max_msg_size;
        let Connection {
            context,
            transport,
            input,
            output,
            subscription,
            timer,
            info,
            blocked_since,
            has_moved,
            has_commands,
            turn,
            reads_last,
            ..
        } = self;
        let wake = async {
            match subscription {
                Some(subscription) => subscription.signal.called().await,
                None => std::future::pending().await,
            }
        };
        let mut wake = std::pin::pin!(wake);
        std::future::poll_fn(|cx| {
            let mut wrote = false;
            let mut blocked = false;
            let written_bytes = transport.written_bytes();
            while !output.pending().is_empty() {
                match transport.poll_write(cx, output.pending()) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(count)) => {
                        context.registry.engine().metrics().sent_bytes.add(count as u64);
                        output.consume(count);
                        *has_moved = true;
                        turn.spend_bytes(transport.cost(count));
                        wrote = true;
                        if turn.is_over() {
                            if blocked_since.take().is_some() {
                                info.set_blocked_since(None);
                            }
                            return Poll::Ready(Ok(Event::Written));
                        }
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        blocked = true;
                        break;
                    }
                }
            }
            if !blocked {
                blocked = transport.poll_flush(cx)?.is_pending();
            }
            wrote |= transport.written_bytes() != written_bytes;
            if !blocked {
                if blocked_since.take().is_some() {
                    info.set_blocked_since(None);
                }
            } else if wrote || blocked_since.is_none() {
                *blocked_since = Some(clock::monotonic());
                info.set_blocked_since(*blocked_since);
            }
            if std::mem::take(reads_last) {
                if wake.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok(Event::Woken));
                }
                if timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok(Event::Timer));
                }
            }
            if output.pending().len() < max_pending_bytes {
                if *has_commands {
                    return Poll::Ready(Ok(Event::Input));
                }
                let spare = input.spare();
                let room = spare.len().min(TURN_BYTES);
                match transport.poll_read(cx, &mut spare[..room]) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Event::ReadEnd)),
                    Poll::Ready(Ok(count)) => {
                        *has_moved = true;
                        return Poll::Ready(Ok(Event::Read(count)));
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {}
                }
            }
            if wake.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(Event::Woken));
            }
            if wrote {
                return Poll::Ready(Ok(Event::Written));
            }
            let event = timer.as_mut().poll(cx).map(|()| Ok(Event::Timer));
            if event.is_pending() {
                turn.begin_anew();
            }
            event
        })
        .await
    }

    /// Handles the timer: a deadline or a heartbeat is due, or was postponed meanwhile.
    fn on_timer(&mut self) -> Result<(), End> {
        let now = clock::monotonic();
        if self.idle_check_at.is_some_and(|at| now >= at) {
            self.check_idle(now);
        }
        let Some(interval) = self.settings.heartbeat_interval else {
            self.arm_timer(now);
            return Ok(());
        };
        if now >= self.last_command_at.saturating_add(interval.saturating_mul(2)) {
            return Err(self.truncated_end());
        }
        if self.blocked_since.is_some_and(|since| now >= since.saturating_add(interval)) {
            return Err(End::Close);
        }
        if now >= self.next_heartbeat {
            self.output.respond(b"_heartbeat_");
            self.next_heartbeat = now + interval;
        }
        self.arm_timer(now);
        Ok(())
    }

    /// Schedules an idle check if the connection has memory to free.
    fn schedule_idle_check(&mut self) {
        let is_large = self.input.is_large() || self.output.is_large() || self.transport.is_large();
        if self.idle_check_at.is_none() && is_large {
            let now = clock::monotonic();
            self.idle_check_at = Some(now + IDLE_CHECK_INTERVAL);
            self.arm_timer(now);
        }
    }

    /// Frees memory if nothing was read or written since the last check. Otherwise schedules the next check.
    fn check_idle(&mut self, now: Nanos) {
        if std::mem::take(&mut self.has_moved) {
            self.idle_check_at = Some(now + IDLE_CHECK_INTERVAL);
            return;
        }
        self.idle_check_at = None;
        self.input.shrink();
        self.output.shrink();
        self.transport.shrink();
    }

    fn arm_timer(&mut self, now: Nanos) {
        let at = match self.settings.heartbeat_interval {
            Some(interval) => {
                let silent = self.last_command_at.saturating_add(interval.saturating_mul(2));
                let blocked = self.blocked_since.map_or(Nanos::MAX, |since| since.saturating_add(interval));
                self.next_heartbeat.min(silent).min(blocked)
            }
            None => now + FAR_AWAY,
        };
        let at = self.idle_check_at.map_or(at, |idle_check_at| at.min(idle_check_at));
        self.timer.as_mut().reset(clock::instant(at).into());
    }

    /// The end of a connection whose client sends no more: an error if it left a command unfinished.
    fn truncated_end(&self) -> End {
        truncated(self.input.data(), &self.context.limits).map_or(End::Close, End::Error)
    }
}

/// Refuses all commands but IDENTIFY without TLS, even unknown ones, once their line is complete.
fn check_without_tls(data: &[u8], limits: &Limits) -> Result<(), ProtocolError> {
    match command_name(data, limits) {
        None => Ok(()),
        Some(name) if name == Verb::Identify.name().as_bytes() => Ok(()),
        Some(name) => {
            let text = [b"cannot ", name, b" in current state (TLS required)"].concat();
            Err(ProtocolError::new(ErrorCode::Invalid, text))
        }
    }
}

/// If more bytes than this (and one message) wait to be written, no more commands are read.
const MAX_PENDING_BYTES: usize = 1024 * 1024;

/// Interval of the idle checks of a connection with large buffers.
const IDLE_CHECK_INTERVAL: Nanos = 5 * 1_000_000_000;

/// A timer that is not needed is set this far ahead.
const FAR_AWAY: Nanos = 24 * 3600 * 1_000_000_000;
