"""Writes language.json: one-line templates and what Jinja2 itself (3.1) makes of them, set up as
transformers sets it up. Run once: pip install jinja2 && python3 generate_language.py > language.json"""
import json

import jinja2.ext
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller):
        return caller()


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                            extensions=[Generation, jinja2.ext.loopcontrols])
environment.filters["tojson"] = tojson

variables = {
    "s": "Hello, World", "u": "  éà 你好 \n", "n": 7, "f": 2.5, "t": True, "z": None, "e": "",
    "xs": [3, 1, 2], "ws": ["b", "A", "c", "a"],
    "d": {"b": 1, "a": [1, 2.0, None, True, "q\"'\n\u0007é"], "items_": {}},
    "people": [{"name": "Ann", "age": 30, "x": {"y": 1}}, {"name": "bob", "age": 25}, {"name": "Cy", "age": 30, "x": {"y": 2}}],
}

expressions = """
1 + 2 * 3 - 4 | 7 // 2 ~ ',' ~ -7 // 2 ~ ',' ~ 7 % 3 ~ ',' ~ -7 % 3 | 2 ** 10 | 7 / 2 | 6 / 2 | 1.0 | 1e20 | 1.5e-7 | 0.1 + 0.2
100000000000000000.0 | 1e16 | 123456789012345.5 | 0.0001 | 0.00001 | -0.0 | 1_000 | -n | +n | - -n | 2.0 * 3 | n // 2.0 | n % 2.5
t | z | [] | {} | xs | d | (1,) | (1, 2) | () | ['it\\'s', "q\\"", 'both\\'"'] | [none, true, false, 1.5] | missing
not t | not missing | t and n | e or 'x' | z or e or 0 | n and e | t and not z | not (t and z) | n if t else 1 | n if z | 'a' if z else 'b' if t else 'c'
1 < 2 < 3 | 1 < 3 < 2 | 1 == 1.0 | true == 1 | 'a' < 'b' | [1, 2] < [1, 3] | n >= 7 | n != 7 | z == none | missing == missing | s == 'Hello, World' | [1] == [1.0]
'ell' in s | 'x' not in s | 2 in xs | 'a' in d | 'q' in d | 1 in missing | n in [1, 7] and t | not n in xs
s ~ n ~ f ~ t ~ z | 'a' 'b' "c" | 'x' * 3 | 2 * 'ab' | [1] * 2 | [1] + [2] | s + '!' | 'a\\tb\\x41\\u00e9\\\\\\q' | "it's"
s[0] | s[-1] | s[1:4] | s[:-1] | s[::-1] | s[::2] | s[20:] | s[5:2] | u[2] | u[2:4] | u[-3] | xs[0] | xs[-1] | xs[1:] | xs[::-1] | xs[10] | xs[-10] | xs[:1] | xs[5:0:-2] | d['b'] | d.b | d['zz'] | d.a[4][0] | people[0].x.y | people.1.name
s | upper | s | lower | 'hello wORLD' | title | "they're-here (and) there" | title | 'hELLO' | capitalize | u | trim | '--a--' | trim('-') | u | length | xs | length | d | length | missing | length | s | count
xs | first | xs | last | xs | sort | xs | sort(reverse=true) | ws | sort | ws | sort(case_sensitive=true) | xs | reverse | list | s | reverse | s | list | d | list | xs | join | xs | join(', ') | people | join('+', attribute='name') | xs | sum | xs | min | xs | max | people | sum(attribute='age') | ws | unique | list | [1, 1.0, 2, 'a', 'A'] | unique | list
people | map(attribute='name') | list | people | map(attribute='x.y', default='-') | list | ws | map('upper') | list | xs | map('string') | join('') | ws | map('replace', 'a', 'x') | list
people | selectattr('age', 'equalto', 30) | map(attribute='name') | join(',') | people | selectattr('x') | list | length | people | rejectattr('x') | map(attribute='name') | list | people | selectattr('age', '>', 26) | list | length | xs | select('odd') | list | xs | reject('odd') | list | xs | select | list | people | selectattr('x', 'defined') | list | length | ws | select('in', ['a', 'b']) | list
d | items | list | d | dictsort | people | sort(attribute='age,name') | map(attribute='name') | list | people | sort(attribute='age') | map(attribute='name') | list | {'B': 2, 'a': 1} | dictsort | {'B': 1, 'a': 2} | dictsort(by='value', reverse=true) | people | groupby('age') | map('first') | list
d | tojson | d | tojson(indent=2) | xs | tojson(indent=4) | s | tojson | [] | tojson(indent=2) | {} | tojson | z | tojson | f | tojson | 1e100 | tojson | d | tojson(sort_keys=true) | xs | tojson(separators=(',', ':')) | {'a': {'b': []}} | tojson(indent=1)
'5' | int | ' 42 ' | int | '4.7' | int | 'x' | int | 'x' | int(3) | 'ff' | int(0, 16) | 4.7 | int | t | int | z | int | '1.5' | float | 'x' | float | 3 | float | 2.567 | round(1) | 2.5 | round | 2.4 | round(method='ceil') | -3 | abs | 7 | string | [1, 'a'] | string
missing | default('d') | e | default('d') | e | default('d', true) | z | default('d') | z | default('d', true) | missing | d('q') | 0 | default(5, true) | missing | default
'a\\nb\\n\\nc' | indent(2) | 'a\\nb' | indent(2, true) | 'a\\n\\nb' | indent(2, blank=true) | 'a b  c' | wordcount | '<a href="x">\\'&' | escape | s | replace('l', 'L') | s | replace('l', 'L', 2) | s | replace('', '-') | xs | batch(2) | list | xs | batch(2, 0) | list
n is number | f is float | n is integer | t is integer | t is boolean | s is string | xs is sequence | s is sequence | d is mapping | xs is mapping | xs is iterable | s is iterable | n is iterable | z is none | z is not none | missing is defined | s is defined | missing is undefined | n is odd | n is even | n is divisibleby 7 | n is divisibleby(2) | s is lower | 'abc' is lower | 'ABC' is upper | n is eq 7 | n is sameas 7 | t is true | t is false | z is false | n is gt 3 | n is in [7] | range is callable | xs is string or n is number | n is not odd
s.upper() | s.lower() | s.title() | "they're".title() | s.split(', ') | s.split() | ' a  b '.split() | 'a,b,c'.split(',', 1) | 'a,b,c'.rsplit(',', 1) | ' a b  c '.split(none, 1) | ' a b  c '.rsplit(none, 1) | 'a\\nb\\r\\nc\\n'.splitlines() | s.startswith('He') | s.startswith(('x', 'H')) | s.endswith('d') | s.replace('l', '') | s.replace('l', '', 1) | u.strip() | u.lstrip() | u.rstrip() | 'xxaxx'.strip('x') | 'abcba'.lstrip('ab') | s.find('o') | s.rfind('o') | s.find('q') | s.count('l') | '-'.join(['a', 'b']) | 'ab'.isalpha() | '12'.isdigit() | ''.isdigit() | ' '.isspace() | 'aB'.islower() | 'AB'.isupper() | 'a1'.isalnum() | 'pre-x'.removeprefix('pre-') | 'x.py'.removesuffix('.py') | 'hELLO'.capitalize() | ''.split(',') | ''.split()
d.get('b') | d.get('zz') | d.get('zz', 5) | d.keys() | list | d.values() | list | d.items() | list | xs.index(2) | xs.count(1) | dict(a=1, b='x') | range(3) | list | range(5, 0, -2) | list | range(0) | list | namespace(a=1).a
-n | abs | (-n) | abs | 2 ** 3 ** 2 | s[1:][0] | (s ~ '!')[-1] | [1, 2, 3][1:] | {'a': 1}['a'] | {'a': [1, {'b': 'c'}]}.a[1].b | 'a' ~ (1 + 2) | not t or t | (1 if t else 2) + 1 | xs | length + 1 | 'x' if missing is defined else 'y' | n == 7 and s is string and xs | 'a' in 'abc' == true
"""

templates = [
    "{% for x in xs %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}",
    "{% for x in [] %}a{% else %}none{% endfor %}",
    "{% for x in missing %}a{% else %}none{% endfor %}",
    "{% for x in xs if x > 1 %}{{ x }}/{{ loop.length }} {% endfor %}",
    "{% for x in xs if x > 9 %}a{% else %}none{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in d %}{{ k }}{% endfor %}{% for c in 'añ' %}[{{ c }}]{% endfor %}",
    "{% for (a, b) in [(1, 2), [3, 4]] %}{{ a + b }} {% endfor %}",
    "{% for x in xs %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}",
    "{% for x in xs %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for x in [1, 1, 2, 2, 1] %}{{ loop.changed(x) }} {% endfor %}",
    "{% for x in [1, [2, [3]], 4] recursive %}{{ loop(x) if x is iterable else x }}@{{ loop.depth }} {% endfor %}",
    "{% for x in xs %}{% for y in xs %}{{ loop.index }}{% endfor %}{{ loop.index }} {% endfor %}",
    "{% for x in xs %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in xs %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% set a = 1 %}{% for x in xs %}{% set a = x %}{{ a }}{% endfor %}{{ a }}",
    "{% set a = 1 %}{% if t %}{% set a = 2 %}{% endif %}{{ a }}",
    "{% set a, b = 1, 2 %}{{ b }}{{ a }}{% set c = 1, 2 %}{{ c }}",
    "{% set ns = namespace(n=0) %}{% for x in xs %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}{{ ns.q }}",
    "{% set b %}  x {{ n }}{% endset %}[{{ b }}]{% set c | upper | trim %} y {% endset %}[{{ c }}]",
    "{% macro m(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, c=3) }} {{ m() }} {{ m(1, 2, 3) }}",
    "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, k=3) }}",
    "{% macro m(x) %}<{{ caller(x) }}>{% endmacro %}{% call(y) m(5) %}{{ y }}{{ n }}{% endcall %}",
    "{% macro f(k) %}{% if k > 0 %}{{ k }}{{ f(k - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% set q = 1 %}{% macro m() %}{{ q }}{% endmacro %}{% set q = 2 %}{{ m() }}",
    "{% for x in xs %}{% macro m(y) %}{{ x }}{{ y }}{% endmacro %}{{ m(0) }} {% endfor %}",
    "{% filter upper %}a{{ s }}{% endfilter %}{% filter replace('a', 'b') | upper %}aa{% endfilter %}",
    "{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% if z %}a{% elif n == 7 %}b{% else %}c{% endif %}{% if z %}a{% elif e %}b{% else %}c{% endif %}",
    "a{# comment {{ x }} #}b{#- c -#} d", "  {% if t %}\n  x\n  {% endif %}\ny", "a\n  {%- if t %}\n b\n  {%- endif -%}\n c",
    "  {%+ if t %}x{% endif %}\n  {% if t +%}\n y{% endif %}", "{% raw %}{{ a }}{% b %}{% endraw %}\nx", "{%- raw -%}  {{ a }}  {%- endraw -%}  z",
    "a  {{- s -}}  b", "a\n{{ s }}\nb\n", "x\r\ny\r{{ n }}\r\n", "{{ '{{' }}{{ '}}' }}{{ {'a': {'b': 1}}['a']['b'] }}", "{{ s }}\n\n",
    "{% generation %}{{ s }}{% endgeneration %}", "{{ {'a': {}}.a }}", " {% set a = 1 %} {{ a }} {# c #} \n z", "\n{% if t %}\n\n{% endif %}\n\n",
    "{{ (xs | length) + 1 }}{{ xs|length==3 }}{{ -1|abs }}", "{%if t%}{{n}}{%endif%}",
]
# "|" separates expressions above only where both sides are expressions of their own: they are
# written here as one template each, split at " | " unless a filter follows.
out = [[source, environment.from_string(source).render(variables)] for source in templates]
filters = set(environment.filters)
for line in expressions.strip().split("\n"):
    pieces = line.split(" | ")
    expression = ""
    for piece in pieces + [None]:
        name = (piece or "").split("(")[0].split(" ")[0]
        is_variable = name in ("d", "e") and not piece.startswith(name + "(")
        is_filter = expression and name in filters and not is_variable
        if is_filter:
            expression += " | " + piece
            continue
        if expression:
            source = "{{ " + expression.replace("\\\\", "\\") + " }}"
            out.append([source, environment.from_string(source).render(variables)])
        expression = piece or ""
print(json.dumps({"variables": variables, "cases": []}, ensure_ascii=False)[:-2])
print(",\n".join(json.dumps(case, ensure_ascii=False) for case in out) + "\n]}")
