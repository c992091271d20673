#include "common/http/server.hpp"

#include <thread>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "common/base/log.hpp"
#include "common/http/connection.hpp"

namespace fulgur::http {
namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr std::size_t kRefusingMax = 64;
constexpr auto kAcceptPause = std::chrono::milliseconds(50);

Result<tcp::endpoint> resolve(asio::io_context& io, const std::string& host, std::uint16_t port) {
  error_code ec;
  const auto address = asio::ip::make_address(host, ec);
  if (!ec) return tcp::endpoint(address, port);
  tcp::resolver resolver(io);
  const auto found = resolver.resolve(host, std::to_string(port), ec);
  if (ec || found.empty()) {
    return error(Code::invalid_argument, "cannot resolve host {}: {}", host, ec.message());
  }
  return found.begin()->endpoint();
}

}  // namespace

struct Server::Impl {
  explicit Impl(ServerOptions options)
      : core(std::make_shared<Core>(std::move(options))),
        work(asio::make_work_guard(core->io)),
        acceptor(core->io),
        deadline(core->io) {}

  Status bind(const std::string& host, std::uint16_t wanted);
  asio::awaitable<void> accept_loop();
  void begin_drain(Nanoseconds limit);
  void break_all();

  std::shared_ptr<Core> core;
  asio::executor_work_guard<asio::io_context::executor_type> work;
  tcp::acceptor acceptor;
  asio::steady_timer deadline;
  std::thread thread;
  std::string host;
  std::uint16_t port = 0;
  bool finished_in_time = true;
};

Status Server::Impl::bind(const std::string& wanted_host, std::uint16_t wanted_port) {
  FULGUR_ASSIGN_OR_RETURN(const tcp::endpoint endpoint,
                          resolve(core->io, wanted_host, wanted_port));
  error_code ec;
  acceptor.open(endpoint.protocol(), ec);
  if (!ec) acceptor.set_option(tcp::acceptor::reuse_address(true), ec);
  if (!ec) acceptor.bind(endpoint, ec);
  if (!ec) acceptor.listen(asio::socket_base::max_listen_connections, ec);
  if (ec) {
    return error(Code::unavailable, "cannot listen on {}:{}: {}", wanted_host, wanted_port,
                 ec.message());
  }
  host = wanted_host;
  port = acceptor.local_endpoint(ec).port();
  return Status::ok();
}

asio::awaitable<void> Server::Impl::accept_loop() {
  while (acceptor.is_open()) {
    error_code ec;
    tcp::socket socket = co_await acceptor.async_accept(asio::redirect_error(asio::use_awaitable, ec));
    if (!acceptor.is_open() || ec == asio::error::operation_aborted) break;
    if (ec) {  // out of descriptors, most likely: some will be free again
      log::warn("cannot accept a connection why=\"{}\"", ec.message());
      asio::steady_timer pause(core->io, kAcceptPause);
      co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ec));
      continue;
    }
    if (core->connections_open.load() < core->options->connections_max) {
      const auto connection = std::make_shared<Connection>(core, std::move(socket));
      asio::co_spawn(core->io, connection->serve(), asio::detached);
    } else if (core->refusing < kRefusingMax) {
      asio::co_spawn(core->io, refuse_connection(core, std::move(socket)), asio::detached);
    }
  }
}

void Server::Impl::break_all() {
  finished_in_time = core->connections.empty();
  const std::set<Connection*> open = core->connections;
  for (Connection* connection : open) connection->break_off();
}

void Server::Impl::begin_drain(Nanoseconds limit) {
  error_code ignored;
  acceptor.close(ignored);
  core->on_connection_closed = [this] {
    if (core->connections.empty()) deadline.cancel();
  };
  const std::set<Connection*> open = core->connections;
  for (Connection* connection : open) connection->close_if_idle();
  if (!core->connections.empty()) {
    deadline.expires_after(std::chrono::nanoseconds(limit));
    deadline.async_wait([this](const error_code& ec) {
      if (!ec) break_all();
    });
  }
  work.reset();
}

Result<std::unique_ptr<Server>> Server::listen(const std::string& host, std::uint16_t port,
                                               ServerOptions options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  FULGUR_RETURN_IF_ERROR(impl->bind(host, port));
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Server::~Server() { shutdown(0); }

void Server::handle(std::string_view method, std::string_view path, Handler handler,
                    RunOn run_on) {
  FULGUR_ASSERT(!impl_->thread.joinable(), "routes are fixed once the server runs");
  impl_->core->routes.add(method, path, {std::move(handler), run_on});
}

void Server::start() {
  FULGUR_ASSERT(!impl_->thread.joinable(), "the server runs already");
  asio::co_spawn(impl_->core->io, impl_->accept_loop(), asio::detached);
  impl_->thread = std::thread([core = impl_->core] { core->io.run(); });
}

std::uint16_t Server::port() const { return impl_->port; }

std::string Server::endpoint() const { return fmt::format("{}:{}", impl_->host, impl_->port); }

std::size_t Server::connections() const { return impl_->core->connections_open.load(); }

bool Server::shutdown(Nanoseconds deadline) {
  if (!impl_->thread.joinable()) return impl_->finished_in_time;
  impl_->core->draining->store(true);
  asio::post(impl_->core->io, [impl = impl_.get(), deadline] { impl->begin_drain(deadline); });
  impl_->thread.join();
  impl_->core->workers.join();
  return impl_->finished_in_time;
}

}  // namespace fulgur::http
