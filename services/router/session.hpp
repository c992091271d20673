// One request from admission to its last byte: runs its choices through a port to the mesh, writes
// what they generate to the client, continues them elsewhere when a shard is lost, and ends exactly
// once. Plain class; session_actor.hpp makes it an actor. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/base/clock.hpp"
#include "common/http/responder.hpp"
#include "services/router/admission.hpp"
#include "services/router/choice.hpp"
#include "services/router/messages.hpp"
#include "services/router/openai_response.hpp"
#include "services/router/request_trace.hpp"
#include "services/router/router_metrics.hpp"

namespace fulgur::router {

/// A request that has been checked, admitted and tokenised.
struct SessionInput {
  std::shared_ptr<const GenerationRequest> request;
  std::shared_ptr<const ServedModel> model;
  std::vector<std::shared_ptr<const TokenIds>> prompts;
  http::Responder responder;
  std::unique_ptr<RequestTrace> trace;  ///< null: not sampled
  Admission::Ticket ticket;
  std::string id;  ///< "chatcmpl-…"
  std::uint64_t seed = 0;
  std::int64_t created = 0;  ///< Unix seconds
  Nanoseconds arrived = 0;
  Nanoseconds deadline = 0;  ///< monotonic
};

/// The session's way into the mesh.
class SessionPort {
 public:
  virtual ~SessionPort() = default;
  /// Unique in the router's life.
  virtual std::uint64_t new_request_id() = 0;
  virtual void submit(SubmitChoice order) = 0;
  virtual void release(ReleaseChoice order) = 0;
};

class Session {
 public:
  /// `port`, `clock` and `metrics` outlive the session.
  Session(SessionInput input, SessionPort& port, const Clock& clock, RouterMetrics& metrics);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void start();
  void on_tokens(const ChoiceTokens& message);
  void on_done(const ChoiceDone& message);
  void on_lost(const ChoiceLost& message);
  void on_refused(const ChoiceRefused& message);
  void on_client_gone();
  void on_deadline();
  bool ended() const { return ended_; }

 private:
  struct Run {
    Choice choice;
    std::uint64_t request = 0;  ///< current submission; 0 when none
    std::uint32_t submissions = 0;
    std::vector<std::string> avoid;
    std::string moved_to;        ///< shard that holds its state
    std::uint64_t snapshot = 0;  ///< as which
    bool shown = false;          ///< its first chunk has been sent
    bool admitted = false;       ///< a shard had it and lost it: from then on no 429
    Nanoseconds last_token = 0;
  };

  Run* find(std::uint64_t request);
  std::uint32_t index_of(const Run& run) const {
    return static_cast<std::uint32_t>(&run - runs_.data());
  }
  void submit(Run& run, bool patient);
  void resubmit(Run& run, const Status& why);
  bool is_admitted(const Run& run) const;
  void follow(Run& run, const ChoiceDone& message);
  void measure(Run& run);
  /// Sends what became visible, and ends the run and the request where due.
  void progress(Run& run);
  bool send_chunk(const std::string& chunk);
  void complete();
  void fail(const ApiError& error);
  void release_all();
  void end(int status);
  void trace_end(int status);
  Usage usage() const;

  SessionInput input_;
  SessionPort& port_;
  const Clock& clock_;
  RouterMetrics& metrics_;
  OpenAiResponse response_;
  std::vector<Run> runs_;  ///< by choice index
  bool streaming_ = false;
  bool ended_ = false;
};

}  // namespace fulgur::router
