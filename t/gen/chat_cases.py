"""Cases of chat.py: (name, template, variables)."""

CHAT = {
    "messages": [
        {"role": "system", "content": "  Be brief.\n"},
        {"role": "user", "content": "Hi \"there\" <b>é</b> & 你好"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {
                "name": "get_weather", "arguments": {"city": "Zürich", "days": 3, "wind": 1.0}}}]},
        {"role": "tool", "content": "{\"t\": 21.5}", "tool_call_id": "c1", "name": "get_weather"},
        {"role": "assistant", "content": "<think>\nwarm?\n</think>\n\nIt is 21.5 °C."},
        {"role": "user", "content": [{"type": "text", "text": "Thanks"}, {"type": "text", "text": "!"}]},
    ],
    "tools": [{"type": "function", "function": {
        "name": "get_weather", "description": "Weather's state",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string", "description": "a city"},
            "days": {"type": "integer", "maximum": 9223372036854775807, "default": 1},
            "unit": {"type": "string", "enum": ["c", "f"]}}, "required": ["city"]}}}],
    "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True,
}
A = {"a": 5, "b": -7, "f": 2.5, "one": 1.0, "s": "Hello, Wörld", "e": "", "n": None, "t": True,
     "l": [3, 1, 2], "d": {"z": 1, "a": [1, 2, {"k": None}], "keys": "own"}, "big": 9223372036854775807,
     "m": [{"k": "b", "v": 1, "o": {"p": 9}}, {"k": "A", "v": 2}, {"k": "b", "v": 3}]}

# whole templates, in the manner of published ones
TEMPLATES = [
    ("chatml with tools", """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
""", CHAT),
    ("headers with date and tools", """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not tools_in_user_message is defined %}{%- set tools_in_user_message = true %}{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|h|>system<|/h|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
{%- endif %}
{{- system_message }}{{- "<|eot|>" }}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}{{- raise_exception("no first user message") }}{%- endif %}
    {{- '<|h|>user<|/h|>\\n\\n' -}}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
    {{- first_user_message + "<|eot|>"}}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|h|>' + message['role'] + '<|/h|>\\n\\n'+ message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("one call only") }}{%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", ' }}{{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}{{- "}" }}{{- "<|eot|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|h|>ipython<|/h|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}
        {{- "<|eot|>" }}
    {%- endif %}
{%- endfor %}
""", CHAT),
    ("macro of content parts", """{%- macro render(content) -%}
    {%- if content is string -%}{{ content }}
    {%- elif content is none or content is undefined -%}
    {%- else -%}
        {%- for part in content -%}
            {%- if part.type == 'image' or 'image_url' in part -%}<image>
            {%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- for m in messages -%}
[{{ m.role|upper }}] {{ render(m.content) }}
{% endfor -%}
""", CHAT),
    ("alternating with tool loop", """{%- set loop_messages = messages | rejectattr("role", "equalto", "system") | list %}
{%- set ns = namespace(index=0, seen=[]) %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("conversation roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
        {%- set ns.seen = ns.seen + [message.role] %}
    {%- endif %}
{%- endfor %}
{{- ns.seen | join(',') }}|{{ loop_messages | map(attribute='role') | unique | join(' ') }}
{%- for message in loop_messages if message.role == 'assistant' and message.tool_calls %}
    {%- for tc in message.tool_calls %}
        {{- ' [TOOL_CALLS] [' }}
        {%- for key, val in tc.function.items() if key != 'name' %}
            {{- '"' + key + '": ' + val|tojson }}
            {%- if not loop.last %}{{ ', ' }}{% endif %}
        {%- endfor %}
        {{- ']' }}
    {%- endfor %}
{%- endfor %}""", CHAT),
    ("generation blocks", """{% for m in messages if m.content is string %}
  {% if m.role == 'assistant' %}
    {% generation %}
{{ m.content }}{{ eos_token }}
    {% endgeneration %}
  {% else %}
{{ m.role }}: {{ m.content|trim }}
  {% endif %}
{% endfor %}
""", CHAT),
    ("schema walk", """{%- macro type_of(p) -%}
{%- if p.enum is defined %}{{ p.enum|map('tojson')|join(' | ') }}
{%- elif p.type == 'object' %}{
{%- for k, v in p.properties.items() %}{{ k }}{{ '?' if k not in (p.required or []) }}: {{ type_of(v) }}{{ ', ' if not loop.last }}{%- endfor %}}
{%- elif p.type is in ['integer', 'number'] %}number
{%- else %}{{ p.type|default('any') }}{% endif %}
{%- endmacro %}
{%- for t in tools|map(attribute='function') %}
// {{ t.description|default('', true) }}
type {{ t.name }} = (_: {{ type_of(t.parameters) }}) => any;
{% endfor %}""", CHAT),
]

EXPRESSIONS = """
1 + 2 * 3 - 4 / 2
7 // 2, -7 // 2, 7 % 3, -7 % 3, 7.5 // 2, 2 ** 10, 2 ** -1, 2 ** 3 ** 2
-2 ** 2
1 / 3
5 % 0.1, -5 % 0.3, 5 // 0.1, 7.5 % -2, -7 // 2.5, 1e17 % 7, 6.0 // 2
1e100, 1e16, 1e15, 123456.789, 1e-5, 0.0001, 1.5e300 * 10, 100 * 1.1
1.0, 3.0 + 1, 4 / 2, 2 * 1.0, 0.1 + 0.2
0x1f, 0b101, 0o17, 1_000, 1_0.5
10 / 4 * 2
(1, 2), (1,), [], {}, [1, 'a', None, True, 2.0], ()
{'a': 1, 'b': [1, 2], "c'": 'it\\'s "q"'}
'a' 'b' "c"
'tab\\t nl\\n bs\\\\ q\\' u\\u00e9 \\x41 \\101 \\q'
['tab\\t', 'é', "it's", '"', '\\x00\\x7f', '\\u200b']
'a' ~ 1 ~ None ~ true ~ 1.0 ~ [1]
true and 'x', false or 'y', 1 and 0, '' or none, not 0, not 'a'
not true == false
1 < 2 < 3, 1 < 3 < 2, 1 == 1.0, true == 1, 'a' < 'b', [1, 2] < [1, 3], 'a' == 1
1 in [1, 2], 3 not in [1, 2], 'ell' in s, 'z' in d, 1.0 in [1], '' in ''
undef, undef == undef2, undef is defined, undef or 'x', undef|length, undef|list, undef ~ 'x'
undef in [1], 1 in undef
n, n == none, n is none, n|string, n is not none
'yes' if a > 3 else 'no', ('x' if false), 'a' if 0 else 'b' if 0 else 'c'
('x' if false) is defined
s[0], s[-1], s[7], s[1:4], s[::-1], s[::2], s[-5:], s[:-5], s[10:2], s[100:]
s[7:9] ~ s[8]
l[0], l[-1], l[1:], l[:-1], l[::-1], l[5:], l[2:0:-1], l[-100:100]
l[9] is defined, l[9]
d.z, d['z'], d.a[2].k, d.missing, d['keys'], d.missing is defined
d.keys()|list, d.values()|list, d.items()|list, d.get('z'), d.get('q'), d.get('q', 7), d.get('z', 1)
d.items()
(1, 2)[0], 'abc'[1], {'x': 5}['x'], {'x': 5}.x, l.0
big, big|tojson, [big], big == big, big ~ ''
t, t + 1, true|int, t * 3
'%s is %d and %.2f' % ('x', 5, 2.345), '%5d|%-5d|%05d' % (1, 2, 3), '%x %X %o %%' % (255, 255, 8)
'%r' % ['a'], '%(k)s' % {'k': 1}, '%s' % 'x', '%+d % d' % (1, 2), '%e %g' % (12345.678, 0.00001), '%c' % 65
'{} {}'.format(1, 'a'), '{1}{0}'.format(1, 2), '{x:>5}|{x:<5}|{x:^5}'.format(x='ab'), '{:05.1f} {:,} {:x}'.format(2.25, 1234567, 255)
'{{}} {!r} {:d} {:+d} {:%}'.format('a', 3, 4, 0.25)
'  x '.strip() ~ '|', 'xxaxx'.strip('x'), 'abcabc'.lstrip('ab'), '\\n a\\t'.rstrip()
'a,b,,c'.split(','), 'a,b,c'.split(',', 1), ' a  b '.split(), 'a b c'.split(none, 1), ''.split(), ''.split(',')
'a,b,c'.rsplit(',', 1), 'a b c'.rsplit(none, 1), 'a\\nb\\r\\nc\\n'.splitlines(), 'a\\nb'.splitlines(true)
'abc'.startswith('ab'), 'abc'.endswith(('x', 'c')), 'abc'.startswith('b', 1), 'abc'.endswith('')
'aXbX'.replace('X', 'yy'), 'aaa'.replace('a', 'b', 2), 'ab'.replace('', '-'), 'é'.replace('é', 'e')
s.upper(), s.lower(), 'hello world it\\'s'.title(), 'hELLO'.capitalize(), 'aB'.swapcase(), 'ÄÖ'.lower(), 'straße'.upper()
s.find('W'), s.find('ö'), s.find('zz'), s.rfind('l'), 'abcabc'.index('c'), 'aaa'.count('a'), 'aaaa'.count('aa')
','.join(['a', 'b']), 'a-b-c'.partition('-'), 'a-b-c'.rpartition('-'), 'x'.partition('-')
'12'.isdigit(), 'ab'.isalpha(), 'a1'.isalnum(), ' '.isspace(), 'AB'.isupper(), 'ab'.islower(), ''.isdigit(), 'Ab C'.istitle()
'7'.zfill(3), '-7'.zfill(4), 'x'.ljust(3) ~ '|', 'x'.rjust(3, '.'), 'x'.center(4) ~ '|', 'ab'.center(5, '*')
'prefix-x'.removeprefix('prefix-'), 'x.txt'.removesuffix('.txt')
l.index(2), l.count(1), [1, 2] + [3], [1] * 3, 'ab' * 2, (1,) + (2,), 3 * 'x'
range(5)|list, range(2, 8, 3)|list, range(5, 0, -2)|list, range(0)|list
dict(a=1, b=2), dict({'x': 1}, y=2), dict([('k', 'v')])
namespace(a=1).a
-a, +b, -f, - -a, -5|abs
(a > 3) and (b < 0)
a is odd, a is even, a is divisibleby 5, a is number, f is float, a is integer, t is boolean, t is integer, s is string
d is mapping, l is sequence, s is sequence, l is iterable, a is iterable, n is none, t is true, e is false, range is callable
a is eq 5, a is gt 3, a is lessthan 3, a is in [5], 'x' is in 'xyz', s is lower, 'a' is lower, a is sameas a, 'abs' is filter, 'odd' is test
not a is odd, a is not odd
s|length, l|length, d|length, ''|length
l|first, l|last, l|sort, l|sort(reverse=true), l|sum, l|max, l|min, l|reverse|list, s|first, ''|first
['b', 'A', 'c']|sort, ['b', 'A', 'c']|sort(case_sensitive=true), m|sort(attribute='k,v')|map(attribute='v')|list
m|map(attribute='k')|list, m|map(attribute='o.p', default='-')|list, ['a']|map('upper')|list, [1, 2]|map('string')|join('+')
m|selectattr('k', 'equalto', 'b')|map(attribute='v')|list, m|rejectattr('k', 'eq', 'b')|list, m|selectattr('o', 'defined')|list|length, m|selectattr('o')|list|length
[0, 1, '', 'a', none]|select|list, [1, 2, 3]|select('odd')|list, [1, 2, 3]|reject('gt', 1)|list, range(10)|select('divisibleby', 3)|list
m|groupby('k')|length, m|unique(attribute='k')|map(attribute='v')|list, [1, 'b', 'B', 1]|unique|list
d|dictsort, {'b': 1, 'A': 2}|dictsort, {'b': 1, 'a': 2}|dictsort(by='value')
d|items|list, d|list, s|list|length
'5'|int, '5.7'|int, 'x'|int, 'x'|int(3), 5.9|int, -5.9|int, 'ff'|int(base=16), ''|int, none|int, ' 12 '|int, '1_000'|int
'2.5'|float, 'x'|float, 3|float, none|float, 'inf'|float, '1e3'|float
2.5|round, 3.5|round, 2.675|round(2), 7|round, 2.1|round(method='ceil'), 2.15|round(1, 'floor'), 42.55|round
-3|abs, 2.5|abs, true|abs
undef|default('d'), ''|default('d'), ''|default('d', true), none|default('d'), undef|d, false|default('x', boolean=true)
' x '|trim ~ '|', 'xax'|trim('x'), n|trim, 5|string ~ 1
'a'|upper, 'HeLLo wOrld-foo (bar'|title, 'HELLO wORLD'|capitalize, 5|lower, none|upper
['a', 1, none]|join('-'), l|join, m|join(',', attribute='v'), 'abc'|join('-')
'aXa'|replace('a', 'b'), 'aaa'|replace('a', 'b', 1), 12321|replace('2', 'x')
'a\\nb\\n\\nc'|indent, 'a\\nb'|indent(2, true), 'a\\nb'|indent('> '), 'a\\n\\nb'|indent(2, blank=true)
'hello world foo'|truncate(8), 'hello world foo'|truncate(8, true), 'hello world foo'|truncate(11, false, '..', 0), 'short'|truncate(3)
'one two, three'|wordcount, 'a b&c/d'|urlencode, 'x'|center(5) ~ '|', '%s-%s'|format('a', 'b')
[1, 2, 3, 4, 5]|batch(2)|list, [1, 2, 3]|batch(2, 'x')|list, range(7)|slice(3)|list, range(5)|slice(3, 'x')|list
d|tojson, d|tojson(indent=2), l|tojson, l|tojson(indent=1), s|tojson, n|tojson, t|tojson, f|tojson, one|tojson, []|tojson(indent=2), {}|tojson
{'b': 1, 'a': 'é"\\\\/\\n\\t\\x01<>&\\''}|tojson, {'b': 1, 'a': 2}|tojson(sort_keys=true), 'é😀\\x7f'|tojson(ensure_ascii=true), [1, {'a': 2}]|tojson(separators=(',', ':'))
{2: 'a', true: 'b', none: 'c'}|tojson
(1, 2)|tojson, range(3)|list|tojson, 1e100|tojson
d|string, s|attr('upper') is callable, d|attr('z') is defined
strftime_now('%d %B %Y, %H:%M:%S %j %a %-d %%'), strftime_now('%Y-%m-%d')
a if a is defined and a is not none and a > 3 else 'none'
messages is defined and messages, (a, b)|max
'x' in d.a[2], 'k' in d.a[2], 'a' not in d
l|length > 2 and l[0] == 3
[[1, 2], [3]]|sum(start=[])
'a' if t else raise_exception('no')
cycler is defined, joiner is defined, nothing is defined
'%.1f %.1f %.0f %.0f %.0f %.2f %.3e' % (2.25, 2.35, 0.5, 1.5, 2.5, 1.005, 1.0005)
1e-7|round(7), 0.5|round, 1.5|round, -2.5|round, 1.25|round(1), 1e20|round(2)
""".strip().split("\n")

ERRORS = """
{{ undef.x }}
{{ d.q.x }}
{{ n.x }}{{ n.x.y }}
{{ l[9].x }}
{{ undef() }}
{{ undef + 'x' }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ 'a' + none }}
{{ [1] + 'a' }}
{{ 1 < 'a' }}
{{ undef < 1 }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 5 in 5 }}
{{ 1 in 'abc' }}
{{ l() }}
{{ a|length }}
{{ undef|tojson }}
{{ range|tojson }}
{{ l.append(4) }}
{{ d.update({'x': 1}) }}
{{ l|select('odd')|length }}
{{ raise_exception('bad ' ~ a) }}
{% for x in a %}{% endfor %}
{% for x, y in l %}{% endfor %}
{% for x, y in [(1, 2, 3)] %}{% endfor %}
{% set ns = namespace() %}{% set ns._x = 1 %}
{% set d.x = 1 %}
{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{% endmacro %}{{ f(b=2) }}
{{ range(1000000) }}
{{ 'x'|nofilter }}
{{ 'x' is notest }}
{{ 'x'.nomethod() }}
{{ '%d' % 'x' }}
{{ '%s %s' % 'x' }}
{{ '{}'.format() }}
{{ ''.join([1]) }}
{{ 'a'.index('b') }}
{{ 'a'.split('') }}
{{ -'a' }}
{{ undef|int }}
{{ l|join(none) }}
{{ {}[[]] }}
{{ 'a'.upper(1) }}
{{ l[::0] }}
{{ l['a':] }}
{{ a[1:] }}
{{ d[1:] }}
{{ undef[1:] }}
{{ 5|select|list }}
{{ 5|indent }}
{{ undef|indent }}
{{ 5|truncate }}
{{ 'a' % 1 }}
{{
{{ a
{{ a }
{% if a %}
{% if a %}{% endfor %}
{% for x in l %}{% else %}
{% endif %}
{% nosuchtag %}
{{ 1 + }}
{{ }}
{{ a b }}
{{ 'unclosed }}
{{ a.( }}
{{ (1, 2 }}
{{ [1, 2 }}
{{ {1 2} }}
{{ a | }}
{{ a is }}
{{ ! }}
{% set x %}
{% set 5 = 1 %}
{% set none = 1 %}
{% for x l %}{% endfor %}
{% break %}
{# never ends
{% raw %} never ends
{% macro %}{% endmacro %}
{% macro f(a=1, b) %}{% endmacro %}
line 1
line 2 {% if %}{% endif %}
""".strip()

# line of an error, several lines
LINES = [
    ("raise on line 3", "a\n{% if true %}\n  {{ raise_exception('no') }}\n{% endif %}"),
    ("undefined on line 2", "a\n{{ q.x }}\n"),
    ("error inside a macro", "{% macro f() %}\n{{ q.x }}\n{% endmacro %}\n\n{{ f() }}"),
    ("syntax error on line 4", "a\n\n\n{% if %}\n"),
    ("end tag missing", "a\n{% for x in l %}\n{{ x }}\n"),
]

STATEMENTS = [
    ("set in if", "{% if true %}{% set x = 1 %}{% endif %}{{ x }}"),
    ("set in for is local", "{% set x = 0 %}{% for i in l %}{% set x = i %}{{ x }}{% endfor %}{{ x }}"),
    ("set is reset each turn", "{% for i in l %}{% if loop.first %}{% set x = 'f' %}{% endif %}{{ x }},{% endfor %}"),
    ("namespace in for", "{% set ns = namespace(x=0, y='') %}{% for i in l %}{% set ns.x = ns.x + i %}{% set ns.y = ns.y ~ i %}{% endfor %}{{ ns.x }} {{ ns.y }} {{ ns['x'] }} {{ ns.z is defined }}"),
    ("namespace of dict", "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a + ns.b }}"),
    ("tuple set", "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d) = [3, 4] %}{{ c }}{{ d }}{% set x = 1, 2 %}{{ x }}"),
    ("set block", "{% set x %}a{{ a }}b{% endset %}[{{ x }}]{{ x|length }}"),
    ("set block filter", "{% set x | upper | replace('B', '-') %}ab{{ a }}{% endset %}{{ x }}"),
    ("set block is a scope", "{% set x %}{% set q = 1 %}{{ q }}{% endset %}{{ x }}{{ q is defined }}"),
    ("for else", "{% for x in [] %}x{% else %}none{% endfor %}{% for x in [1] %}{{ x }}{% else %}none{% endfor %}"),
    ("for if", "{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }}{{ ',' if not loop.last }}{% else %}-{% endfor %}"),
    ("for if none", "{% for x in l if x > 10 %}{{ x }}{% else %}-{% endfor %}"),
    ("for dict", "{% for k in d %}{{ k }};{% endfor %}{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}"),
    ("for items filter", "{% for k, v in d|items %}{{ k }};{% endfor %}{% for k, v in d|dictsort %}{{ k }};{% endfor %}"),
    ("for string", "{% for c in 'héy' %}{{ c }}.{% endfor %}"),
    ("for nested unpack", "{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}"),
    ("for tuple without parens", "{% for x in 1, 2, 3 %}{{ x }}{% endfor %}"),
    ("loop fields", "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.depth }}{{ loop.depth0 }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('o', 'e') }}{{ loop.changed(x > 1) }};{% endfor %}"),
    ("loop previtem defined", "{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}"),
    ("outer loop", "{% for x in [1, 2] %}{% set outer = loop %}{% for y in [1, 2] %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}"),
    ("loop var after loop", "{% for x in l %}{% endfor %}{{ x is defined }}{{ loop is defined }}"),
    ("break continue", "{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}"),
    ("break inner only", "{% for x in [1, 2] %}{% for y in [1, 2, 3] %}{% if y == 2 %}{% break %}{% endif %}{{ x }}{{ y }} {% endfor %}{% endfor %}"),
    ("recursive", "{% for x in [[1, [2]], 3] recursive %}{% if x is iterable %}[{{ loop(x) }}]{% else %}{{ x }}@{{ loop.depth }} {% endif %}{% endfor %}"),
    ("elif", "{% if a == 1 %}1{% elif a == 5 %}5{% elif a == 6 %}6{% else %}x{% endif %}{% if false %}x{% elif false %}y{% endif %}"),
    ("macro", "{% macro f(x, y='d', z=none) %}{{ x }}{{ y }}{{ z }}{% endmacro %}{{ f(1) }}|{{ f(1, 2) }}|{{ f(z=3, x=1) }}|{{ f() }}"),
    ("macro default false", "{% macro f(x=false) %}{{ x }}{% endmacro %}{{ f() }}{{ f(x=false) }}"),
    ("macro default uses earlier", "{% macro f(x, y=x) %}{{ y }}{% endmacro %}{{ f(4) }}"),
    ("macro varargs", "{% macro f(x) %}{{ x }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, k=4) }}"),
    ("macro sees globals", "{% set g = 1 %}{% macro f() %}{{ g }}{{ a }}{% endmacro %}{{ f() }}{% set g = 2 %}{{ f() }}"),
    ("macro set is local", "{% macro f() %}{% set q = 1 %}{{ q }}{% endmacro %}{{ f() }}{{ q is defined }}"),
    ("macro prints", "{% macro f() %}{% endmacro %}{{ f }}{{ [f] }}"),
    ("macro recursion", "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}"),
    ("macro args spread", "{% macro f(a, b, c) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(*[1, 2], **{'c': 3}) }}"),
    ("macro text is a string", "{% macro f() %} x {% endmacro %}[{{ f()|trim }}]{{ f() ~ 'y' }}{{ f().strip() }}"),
    ("call block", "{% macro box(t) %}<{{ t }}>{{ caller() }}</{{ t }}>{% endmacro %}{% call box('b') %}in{{ a }}{% endcall %}"),
    ("call block args", "{% macro each(l) %}{% for x in l %}{{ caller(x, loop.index) }}{% endfor %}{% endmacro %}{% call(v, i) each(l) %}{{ i }}={{ v }};{% endcall %}"),
    ("with", "{% with x = 1, y = a %}{{ x }}{{ y }}{% endwith %}{{ x is defined }}"),
    ("filter block", "{% filter upper | trim %}  a{{ a }}b {% endfilter %}|"),
    ("print tag", "{% print a, b %}"),
    ("cycler joiner", "{% set c = cycler('a', 'b') %}{% set j = joiner('+') %}{% for i in range(4) %}{{ j() }}{{ c.next() }}{% endfor %}{{ c.current }}{{ c.reset() }}{{ c.current }}"),
    ("groupby", "{% for g in m|groupby('k') %}{{ g.grouper }}:{{ g.list|map(attribute='v')|join(',') }} {% endfor %}{% for k, xs in m|groupby('k') %}{{ k }}{{ xs|length }}{% endfor %}"),
    ("raw", "{% raw %}{{ a }} {% if %}{% endraw %}|{% raw -%}  x  {%- endraw %}|\n  {% raw %}\n y\n  {% endraw %}\nz"),
    ("comment", "a{# c #}b{#- c -#} d\n  {# line #}\ne {#c#}\nf"),
    ("trim and lstrip", "  {% if true %}\n  a\n  {% endif %}\n  b {% if true %} c {% endif %}\nd\n\t{% if true %}x{% endif %}\n\n"),
    ("minus", "a \n {%- if true -%} \n b \n {%- endif -%} \n c {{- a -}} d \n\n {{- ' e ' -}} \n f"),
    ("plus", "  {%+ if true +%}\n a\n  {%+ endif %}\n b"),
    ("minus unicode space", "a\u3000\u00a0{{- 1 -}}\u2003\nb"),
    ("trailing newline kept once", "a\n\n"),
    ("crlf", "a\r\n{% if true %}\r\nb\r{% endif %}\rc\r\n"),
    ("print newline stays", "{{ a }}\nb\n{{ a -}}\n c"),
    ("braces in text", "a { b } {a} }} %} #} c {"),
    ("nested braces", "{{ {'a': {'b': 1}}['a'] }}{{ {'a': {'b': 1}}.a.b }}{% set x = {'k': {}} %}{{ x }}"),
    ("not a tag", "{ {a}} {a} { % if % }"),
    ("multi line expression", "{{ [1,\n  2,\n  3,\n] | join(\n  '-' ) }}"),
    ("string with delimiters", "{{ '}}' ~ \"{% x %}\" ~ '#}' }}"),
    ("unicode names", "{% set größe = 3 %}{{ größe }}"),
    ("generator is true", "{{ 'yes' if l|select('gt', 100) else 'no' }}{{ 'yes' if (l|select('gt', 100)|list) else 'no' }}"),
    ("undefined filter in a dead branch", "{% if false %}{{ x|nofilter }}{% endif %}ok"),
    ("shadowing", "{% set range = 5 %}{{ range }}{% for l in [1] %}{{ l }}{% endfor %}{{ l|length }}"),
    ("set then loop then set", "{% set x = 1 %}{% for i in [1] %}{{ x }}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}"),
    ("string times", "{{ '-' * 5 }}{{ ' ' * a }}|"),
    ("dict methods as keys", "{{ d.keys }}"[:0] + "{{ d['keys'] }}{{ d.items() | list | length }}"),
    ("compare chains", "{% if 1 < a <= 5 %}y{% endif %}{% if a in [1, 5] and a not in [2] %}y{% endif %}"),
    ("ifs with filters", "{% if l|length == 3 and s|lower|first == 'h' %}y{% endif %}{% if not l|select('eq', 9)|list %}n{% endif %}"),
    ("loop over groups of text", "{% for part in 'a|b|c'.split('|') %}{{ loop.index ~ part }}{% if not loop.last %}/{% endif %}{% endfor %}"),
    ("none prints", "{{ none }}{{ n }}{{ [none] }}{{ n ~ '' }}"),
    ("emoji", "{{ '😀é'|length }}{{ '😀é'[0] }}{{ '😀é'[::-1] }}{{ ['😀'] }}"),
    ("empty template", ""),
    ("only newline", "\n"),
    ("deep", "{{ " + "(" * 30 + "1" + ")" * 30 + " }}"),
    ("long sum", "{{ " + " + ".join(["1"] * 100) + " }}"),
]

CASES = TEMPLATES
CASES += [("expression " + e, "{{ [" + e + "] }}", A) for e in EXPRESSIONS]
CASES += [("print " + e, "{{ " + e + " }}", A) for e in (
    "a", "b", "f", "one", "s", "e", "n", "t", "l", "d", "big", "undef", "2 ** 52", "10 / 2", "-0.0", "d.keys()",
    "(1,)", "1, 2", "s.upper()", "d|tojson(indent=4)", "'x' ~ one", "1e22", "namespace(a=1).b", "l|first", "[]|first", "none|select|list", "false|map('upper')|list", "[d, 2.5]|sort(attribute='z.q')|length", "'a' % [1, 2]", "'a' % undef", "[1, 2, 3, 4]|truncate(255)", "'<a href=\"x\">&'|escape", "s|safe", "s|e|upper")]
_lines = ERRORS.split("\n")
CASES += [("error " + e, e, A) for e in _lines[:-2]] + [("error second line", "\n".join(_lines[-2:]), A)]
CASES += [(n, t, A) for n, t in LINES + STATEMENTS]
