// Which carrier a device link uses, and the proof that it works. See docs/protocol.md, section 8.
#include <algorithm>
#include <span>
#include <utility>

#include "common/base/log.hpp"
#include "common/base/rng.hpp"
#include "common/transport/device_transport.hpp"
#include "common/wire/codec.hpp"

namespace fulgur::transport {
namespace {

/// Enough for NCCL to set its connection up and for a copy to be more than one packet.
constexpr std::size_t kProbeBytes = 64U << 10;
constexpr std::size_t kReasonBytes = 256;

/// What a probe carries. The seed is a new one each time and travels beside it, so that nothing old
/// passes.
std::vector<std::uint64_t> probe_words(const std::string& seed, std::uint64_t window) {
  const std::uint64_t mixed = wire::checksum(std::as_bytes(std::span(seed)));
  const std::uint64_t bytes = std::min<std::uint64_t>(kProbeBytes, DeviceWindow(window).largest());
  std::vector<std::uint64_t> words(bytes / sizeof(std::uint64_t));
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = random_bits(mixed, i);
  return words;
}

Result<std::string> token_of(const wire::Frames& tokens, std::size_t at, std::size_t count) {
  if (tokens.size() != count || tokens[at].size > kGpuTokenBytes) {
    return error(Code::data_loss, "a handshake of {} tokens", tokens.size());
  }
  return frame_text(tokens[at], kGpuTokenBytes);
}

}  // namespace

// ---------------------------------------------------------------- dialer

/// Tries the next carrier that may work; none always does.
void DeviceTransport::propose(Link& link) {
  for (;; ++link.candidate) {
    const bool is_last = link.candidate >= options_.carriers.size();
    const DeviceCarrier carrier = is_last ? DeviceCarrier::none : options_.carriers[link.candidate];
    if (!is_last && !may_use(link, carrier)) continue;
    ++link.attempt;
    link.trying = carrier;
    wire::Frames tokens;
    const Status prepared = prepare_proposal(link, carrier, tokens);
    if (!prepared) {
      log::warn("link to {} cannot use {}: {}", link.peer.name, to_string(carrier),
                prepared.message());
      end_device(link);
      continue;
    }
    schedule(link, clock_.now() + options_.handshake);
    const Status said = say(link,
                            {.kind = DeviceKind::propose,
                             .carrier = carrier,
                             .attempt = link.attempt,
                             .window = options_.window_bytes},
                            std::move(tokens));
    if (!said) break_link(link.id, said);
    return;
  }
}

bool DeviceTransport::may_use(const Link& link, DeviceCarrier carrier) const {
  const auto spoiled = spoiled_.find(link.peer.name);
  return std::ranges::count(options_.carriers, carrier) != 0 &&
         gpu_.may_use(carrier, link.peer.gpu) &&
         (spoiled == spoiled_.end() || std::ranges::count(spoiled->second.second, carrier) == 0);
}

Status DeviceTransport::prepare_proposal(Link& link, DeviceCarrier carrier, wire::Frames& tokens) {
  DeviceLaneParts& parts = link.parts;
  parts.carrier = carrier;
  parts.attempt = link.attempt;
  parts.window_in = options_.window_bytes;
  if (carrier == DeviceCarrier::peer) {
    FULGUR_ASSIGN_OR_RETURN(GpuInbox inbox, gpu_.make_inbox(options_.window_bytes, link.peer.gpu));
    parts.ring = std::move(inbox.ring);
    parts.in = std::move(inbox.channel);
    tokens.push_back(text_frame(std::move(inbox.token)));
  } else if (carrier == DeviceCarrier::nccl) {
    FULGUR_ASSIGN_OR_RETURN(std::string out, gpu_.make_id());
    FULGUR_ASSIGN_OR_RETURN(std::string in, gpu_.make_id());
    FULGUR_ASSIGN_OR_RETURN(parts.out, gpu_.join(out, true));
    FULGUR_ASSIGN_OR_RETURN(parts.in, gpu_.join(in, false));
    tokens.push_back(text_frame(std::move(out)));
    tokens.push_back(text_frame(std::move(in)));
  }
  return Status::ok();
}

void DeviceTransport::on_accept(Link& link, const DeviceHeader& header,
                                const wire::Frames& tokens) {
  if (header.carrier != link.trying || link.lane) {
    return break_link(link.id, {Code::data_loss, "an answer that fits no proposal"});
  }
  if (header.carrier == DeviceCarrier::none) return bring_up(link, DeviceCarrier::none);
  if (header.carrier == DeviceCarrier::peer) {
    const auto token = token_of(tokens, 0, 1);
    if (!token) return break_link(link.id, token.status());
    auto out = gpu_.open_outbox(*token, header.window);
    if (!out) return give_attempt_up(link, out.status());
    link.parts.out = std::move(out).value();
  }
  start_lane(link, header.window);
}

void DeviceTransport::on_refuse(Link& link, const wire::Frames& frames) {
  const std::string why =
      frames.empty() ? "no reason given" : frame_text(frames.front(), kReasonBytes);
  log::warn("{} refuses {}: {}", link.peer.name, to_string(link.trying), why);
  end_device(link);
  if (link.trying == DeviceCarrier::none) {
    return break_link(link.id, {Code::failed_precondition, why});
  }
  ++link.candidate;
  propose(link);
}

// ---------------------------------------------------------------- listener

void DeviceTransport::on_propose(Link& link, const DeviceHeader& header,
                                 const wire::Frames& tokens) {
  end_device(link);
  link.attempt = header.attempt;
  link.trying = header.carrier;
  wire::Frames answer;
  const Status prepared = prepare_answer(link, header.window, tokens, answer);
  if (!prepared) return refuse(link, prepared);
  const Status said = say(link,
                          {.kind = DeviceKind::accept,
                           .carrier = header.carrier,
                           .attempt = link.attempt,
                           .window = options_.window_bytes},
                          std::move(answer));
  if (!said) return break_link(link.id, said);
  if (header.carrier == DeviceCarrier::none) return bring_up(link, DeviceCarrier::none);
  start_lane(link, header.window);
}

Status DeviceTransport::prepare_answer(Link& link, std::uint64_t window, const wire::Frames& tokens,
                                       wire::Frames& answer) {
  const DeviceCarrier carrier = link.trying;
  if (carrier == DeviceCarrier::none) return Status::ok();
  if (!may_use(link, carrier)) {
    return error(Code::failed_precondition, "this process does not use {}", to_string(carrier));
  }
  DeviceLaneParts& parts = link.parts;
  parts.carrier = carrier;
  parts.attempt = link.attempt;
  parts.window_in = options_.window_bytes;
  if (carrier == DeviceCarrier::peer) {
    FULGUR_ASSIGN_OR_RETURN(const std::string token, token_of(tokens, 0, 1));
    FULGUR_ASSIGN_OR_RETURN(parts.out, gpu_.open_outbox(token, window));
    FULGUR_ASSIGN_OR_RETURN(GpuInbox inbox, gpu_.make_inbox(options_.window_bytes, link.peer.gpu));
    parts.ring = std::move(inbox.ring);
    parts.in = std::move(inbox.channel);
    answer.push_back(text_frame(std::move(inbox.token)));
    return Status::ok();
  }
  FULGUR_ASSIGN_OR_RETURN(const std::string in, token_of(tokens, 0, 2));
  FULGUR_ASSIGN_OR_RETURN(const std::string out, token_of(tokens, 1, 2));
  FULGUR_ASSIGN_OR_RETURN(parts.in, gpu_.join(in, false));
  FULGUR_ASSIGN_OR_RETURN(parts.out, gpu_.join(out, true));
  return Status::ok();
}

// ---------------------------------------------------------------- both

void DeviceTransport::start_lane(Link& link, std::uint64_t window_out) {
  link.parts.window_out = window_out;
  const LinkId inner = link.inner;
  link.lane = std::make_unique<DeviceLane>(
      std::exchange(link.parts, {}), gpu_, options_.limits, inner_->doorbell(),
      [this, inner](wire::Frames frames) { return inner_->send(inner, std::move(frames)); });
  link.probed = link.verified = link.proved = false;
  progress_at_ = clock_.now();
}

/// As soon as both ends have joined, known bytes go both ways; the link is up when they arrived.
void DeviceTransport::prove(Link& link) {
  if (link.probed) return;
  const Result<bool> joined = link.lane->joined();
  if (!joined) return give_attempt_up(link, joined.status());
  if (!*joined) return;
  const std::string seed =
      fmt::format("{} {} {} {}", link.dialed, link.id, link.attempt, clock_.wall_now());
  const auto words = probe_words(seed, link.lane->window_out());
  const std::size_t bytes = words.size() * sizeof(words[0]);
  auto memory = gpu_.take(bytes);
  if (!memory) return give_attempt_up(link, memory.status());
  Status sent = gpu_.upload(memory->get(), words.data(), bytes);
  if (sent.is_ok()) {
    link.probed = true;
    const std::byte* data = memory->get();
    sent = link.lane->send(
        DeviceKind::probe,
        {text_frame(seed), {std::move(memory).value(), data, bytes, MemoryKind::device, nullptr}});
  }
  if (!sent) give_attempt_up(link, sent);
}

void DeviceTransport::on_probe(Link& link, const wire::Frames& frames) {
  if (link.state != State::shaking || link.verified || !link.lane) {
    return break_link(link.id, {Code::data_loss, "a probe that is not due"});
  }
  const bool formed = frames.size() == 2 && !wire::is_device(frames[0]) &&
                      wire::is_device(frames[1]) && frames[0].size <= kReasonBytes;
  if (!formed) return give_attempt_up(link, {Code::data_loss, "a malformed probe"});
  const auto wanted = probe_words(frame_text(frames[0], kReasonBytes), options_.window_bytes);
  std::vector<std::uint64_t> got(wanted.size());
  const wire::Frame& tensor = frames[1];
  Status read = tensor.size == got.size() * sizeof(got[0])
                    ? gpu_.download(got.data(), tensor.data, tensor.size, tensor.ready)
                    : Status{Code::data_loss, "a probe of the wrong size"};
  if (read.is_ok() && got != wanted) read = {Code::data_loss, "a probe arrived damaged"};
  if (!read) return give_attempt_up(link, read);
  link.verified = true;
  const Status said = say(link, {.kind = DeviceKind::proved, .attempt = link.attempt});
  if (!said) return break_link(link.id, said);
  check_proved(link);
}

void DeviceTransport::check_proved(Link& link) {
  if (link.verified && link.proved) bring_up(link, link.lane->carrier());
}

/// A carrier does not work here. The dialer tries the next one, the listener says so and waits.
void DeviceTransport::give_attempt_up(Link& link, const Status& why) {
  if (!link.dialed) return refuse(link, why);
  log::warn("link to {} cannot use {}: {}", link.peer.name, to_string(link.trying), why.message());
  end_device(link);
  if (link.trying == DeviceCarrier::none) return break_link(link.id, why);
  ++link.candidate;
  propose(link);
}

void DeviceTransport::refuse(Link& link, const Status& why) {
  log::warn("refusing a device carrier to {}: {}", link.peer.name, why.message());
  end_device(link);
  const Status said =
      say(link, {.kind = DeviceKind::refuse, .attempt = link.attempt}, {text_frame(why.message())});
  if (!said) break_link(link.id, said);
}

Status DeviceTransport::say(Link& link, const DeviceHeader& header, wire::Frames frames) {
  frames.insert(frames.begin(), encode_header(header));
  return inner_->send(link.inner, std::move(frames));
}

}  // namespace fulgur::transport
