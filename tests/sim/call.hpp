// One HTTP request as its client sees it: the bytes of the real Exchange, parsed, and the verdict on
// them. A client reads at once, may hang up, and loses its answer when its router dies.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/http/exchange.hpp"
#include "tests/sim/process.hpp"
#include "tests/sim/sim_model.hpp"

namespace fulgur::sim {

enum class Ending : std::uint8_t {
  open,         ///< none yet
  complete,     ///< every token, to the bit
  refused,      ///< an error status instead of an answer
  failed,       ///< an error event inside a stream
  hung_up,      ///< the client left
  router_died,  ///< with its connections
};
std::string_view to_string(Ending ending);

class Call : public std::enable_shared_from_this<Call> {
 public:
  Call(World& world, const RequestSpec& spec, std::uint64_t number);

  /// What HttpApi does: refuses, or admits and starts a session.
  void send(RouterProcess& router, Nanoseconds timeout);
  void hang_up();
  void router_died();

  std::uint64_t number() const { return number_; }
  const std::string& router() const { return router_; }
  bool open() const { return ending_ == Ending::open; }
  Ending ending() const { return ending_; }
  int status() const { return status_; }          ///< of the response, or inside an error event
  const std::string& message() const { return message_; }
  Nanoseconds started() const { return started_; }
  Nanoseconds deadline() const { return deadline_; }
  Nanoseconds ended() const { return ended_; }
  bool admitted() const { return admitted_; }
  std::size_t tokens() const;  ///< the client got
  /// What is wrong with what the client got; empty when nothing is.
  const std::string& wrong() const { return wrong_; }

 private:
  void refuse(int status, std::string message);
  void read();
  void finish(Ending ending);
  void parse();
  void parse_stream(const std::string& body);
  void parse_event(const std::string& data);
  void take_choice(const nlohmann::ordered_json& choice);
  void take_error(const nlohmann::ordered_json& error, int status);
  void compare(bool whole);
  void complain(std::string what);

  World& world_;
  const RequestSpec& spec_;
  const std::uint64_t number_;
  std::string router_;
  actor::Reactor* reactor_ = nullptr;  ///< while open
  std::shared_ptr<http::Exchange> exchange_;
  std::string bytes_;
  Nanoseconds started_ = 0;
  Nanoseconds deadline_ = 0;
  Nanoseconds ended_ = 0;
  bool admitted_ = false;
  bool done_ = false;  ///< [DONE] was seen
  Ending ending_ = Ending::open;
  int status_ = 0;
  std::string message_;
  std::vector<Stream> got_;
  std::string wrong_;
};

}  // namespace fulgur::sim
