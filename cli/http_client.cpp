#include "cli/http_client.hpp"

#include <curl/curl.h>

#include <algorithm>

namespace fulgur::cli {

struct HttpClient::Impl {
  std::string base;
  CURL* handle = nullptr;
  curl_slist* json_headers = nullptr;

  // Of the running request.
  HttpResponse response;
  std::function<bool(std::string_view)> on_bytes;

  static std::size_t write(char* data, std::size_t one, std::size_t count, void* user) {
    auto& self = *static_cast<Impl*>(user);
    long status = 0;
    curl_easy_getinfo(self.handle, CURLINFO_RESPONSE_CODE, &status);
    const std::string_view bytes(data, one * count);
    if (self.on_bytes && status == 200) return self.on_bytes(bytes) ? bytes.size() : 0;
    self.response.body.append(bytes);
    return bytes.size();
  }

  void prepare(const std::string& path) {
    curl_easy_reset(handle);
    response = {};
    on_bytes = nullptr;
    curl_easy_setopt(handle, CURLOPT_URL, (base + path).c_str());
    curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(handle, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(handle, CURLOPT_CONNECTTIMEOUT_MS, 5000L);
    curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, &Impl::write);
    curl_easy_setopt(handle, CURLOPT_WRITEDATA, this);
  }

  /// At least a millisecond: to libcurl, none is for ever.
  void set_timeout(Nanoseconds timeout) const {
    const auto ms = std::max(static_cast<long>(timeout / kMillisecond), 1L);
    curl_easy_setopt(handle, CURLOPT_TIMEOUT_MS, ms);
  }

  void body(const std::string& json) {
    curl_easy_setopt(handle, CURLOPT_HTTPHEADER, json_headers);
    curl_easy_setopt(handle, CURLOPT_POSTFIELDSIZE, static_cast<long>(json.size()));
    curl_easy_setopt(handle, CURLOPT_COPYPOSTFIELDS, json.c_str());
  }

  Result<HttpResponse> perform() {
    const CURLcode code = curl_easy_perform(handle);
    long status = 0;
    curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &status);
    response.status = static_cast<int>(status);
    if (code == CURLE_OK) return std::move(response);
    const Code reason = code == CURLE_OPERATION_TIMEDOUT ? Code::deadline_exceeded
                        : code == CURLE_WRITE_ERROR      ? Code::cancelled
                                                         : Code::unavailable;
    return error(reason, "{}: {}", base, curl_easy_strerror(code));
  }
};

HttpClient::HttpClient(std::string base) : impl_(std::make_unique<Impl>()) {
  impl_->base = std::move(base);
  impl_->handle = curl_easy_init();
  FULGUR_ASSERT(impl_->handle != nullptr, "libcurl does not start");
  impl_->json_headers = curl_slist_append(nullptr, "Content-Type: application/json");
}

HttpClient::~HttpClient() {
  curl_slist_free_all(impl_->json_headers);
  curl_easy_cleanup(impl_->handle);
}

void HttpClient::add_header(const std::string& line) {
  impl_->json_headers = curl_slist_append(impl_->json_headers, line.c_str());
}

Result<HttpResponse> HttpClient::get(const std::string& path, Nanoseconds timeout) {
  impl_->prepare(path);
  impl_->set_timeout(timeout);
  return impl_->perform();
}

Result<HttpResponse> HttpClient::post(const std::string& path, const std::string& json,
                                      Nanoseconds timeout) {
  impl_->prepare(path);
  impl_->set_timeout(timeout);
  impl_->body(json);
  return impl_->perform();
}

Result<HttpResponse> HttpClient::post_stream(const std::string& path, const std::string& json,
                                             Nanoseconds silence,
                                             std::function<bool(std::string_view)> on_bytes) {
  impl_->prepare(path);
  impl_->on_bytes = std::move(on_bytes);
  curl_easy_setopt(impl_->handle, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(impl_->handle, CURLOPT_LOW_SPEED_TIME, static_cast<long>(silence / kSecond));
  impl_->body(json);
  return impl_->perform();
}

void SseReader::feed(std::string_view bytes) {
  partial_.append(bytes);
  std::size_t begin = 0;
  for (std::size_t end; (end = partial_.find('\n', begin)) != std::string::npos; begin = end + 1) {
    std::string_view text(partial_.data() + begin, end - begin);
    if (text.ends_with('\r')) text.remove_suffix(1);
    line(text);
  }
  partial_.erase(0, begin);
}

void SseReader::line(std::string_view text) {
  if (text.empty()) {
    if (!data_.empty()) on_data_(data_);
    data_.clear();
    return;
  }
  if (!text.starts_with("data:")) return;
  text.remove_prefix(5);
  if (text.starts_with(' ')) text.remove_prefix(1);
  if (!data_.empty()) data_ += '\n';
  data_.append(text);
}

}  // namespace fulgur::cli
